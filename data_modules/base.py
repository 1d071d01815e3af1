"""What every dataset of text shares: read records, tokenise once, batch. B examples, T tokens."""

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_modules.chat_template import direct_template
from data_modules.conversation import render, special_tokens_of
from data_modules.files import require_whole_files
from data_modules.loader import Examples, OrderedShare, ResumableLoader
from data_modules.progress import Progress
from data_modules.records import Messages, read_records
from data_modules.template_check import check_template

SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}

log = logging.getLogger(__name__)

Example = dict[str, Any]  # token ids and what else a record becomes


class JSONLDataModule(LightningDataModule, ABC):
    """Batches from ``<root>/{train,val,test}.jsonl``.

    Args:
        pretrained: Hugging Face id or directory of the tokenizer; the command line always takes the model's.
        root: directory with one file per split.
        batch_size: examples per device.
        max_length: most tokens of an example, prompt and completion together.
        overlong: what to do with a longer example: stop, or leave it out and report how many there were.
        num_workers: loader processes.
        chat_template_kwargs: values of the chat template's variables, such as ``enable_thinking: false``; they travel
            with the export.

    Raises:
        ValueError: if a number is not positive.
    """

    record: ClassVar[type[Any]]
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        pretrained: str,
        root: Path,
        batch_size: int = 8,
        max_length: int = 512,
        overlong: Literal["error", "drop"] = "error",
        num_workers: int = 0,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("max_length", max_length, 2)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.pretrained = pretrained
        self.root = root
        self.batch_size = batch_size
        self.max_length = max_length
        self.overlong = overlong
        self.num_workers = num_workers
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.records: dict[str, list[Any]] = {}
        self.examples: dict[str, list[Example]] = {}

    @abstractmethod
    def encode(self, record: Any) -> Example:
        """Turn one record into token ids; ``input_ids`` is among them."""

    @abstractmethod
    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Pad examples into a batch; those whose ``counted`` is 0, if any, are in it without being scored."""

    def prepare_data(self) -> None:
        """Refuse missing files and unfit tokenizers before loggers and networks are started; see :meth:`setup`."""
        assert self.trainer is not None
        assert self.trainer.state.fn is not None
        self._require_files(str(self.trainer.state.fn.value))
        self.load_tokenizer()

    def setup(self, stage: str) -> None:
        """Read and tokenise the splits the stage needs; ``records`` and ``examples`` stay parallel.

        Raises:
            FileNotFoundError: naming the missing file or tokenizer and what writes it.
            ValueError: if a file is not made of this module's records, an example is too long, or the tokenizer is
                not one for conversations.
        """
        self._require_files(stage)
        self.tokenizer = self.load_tokenizer()
        self._special_tokens = special_tokens_of(self.tokenizer)
        for split in SPLITS[stage]:
            if split not in self.examples:
                self._read(split)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer, with the chat template that is trained; see :func:`direct_template`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if files of the model are not whole, or the tokenizer is not one for conversations.
        """
        require_whole_files(self.pretrained)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.pretrained)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{self.pretrained} gives no tokenizer; set model.init_args.pretrained to a directory that "
                f"`python -m train export` wrote, or to a Hugging Face id ({str(error).splitlines()[0]})."
            ) from error
        for name, part in {"chat template": tokenizer.chat_template, "end token": tokenizer.eos_token}.items():
            if part is None:
                raise ValueError(f"the tokenizer of {self.pretrained} has no {name}; name an instruction-tuned model.")
        check_template(tokenizer)
        tokenizer.chat_template = direct_template(tokenizer, self.chat_template_kwargs)
        return tokenizer

    @property
    def pad_id(self) -> int:
        """What fills rows up; any token will do, since nothing sees it."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def path(self, split: str) -> Path:
        """The file of a split."""
        return self.root / f"{split}.jsonl"

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """Text of a conversation, as it is rendered at inference; see :func:`~data_modules.conversation.render`."""
        return render(self.tokenizer, messages, self._special_tokens, add_generation_prompt=add_generation_prompt)

    def num_tokens(self, example: Example) -> int:
        """How many tokens of an example are learned; one where an example is one answer."""
        return 1

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training batches, in an order that a resumed run continues.

        Each says how many examples and learned tokens its whole optimiser step has, ``step_examples`` and
        ``step_tokens``.
        """
        examples, trainer = self.examples["train"], self.trainer
        return ResumableLoader(
            Examples(examples),
            self.batch_size,
            *self._devices(),
            shuffle=trainer is None or not trainer.overfit_batches,  # type: ignore[attr-defined]
            counts={
                "step_examples": [1] * len(examples),
                "step_tokens": [self.num_tokens(example) for example in examples],
            },
            grouping=None
            if trainer is None
            else lambda: (trainer.accumulate_grad_batches, int(trainer.num_training_batches)),
            num_workers=self.num_workers,
            collate_fn=self.collate,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches, in file order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches, in file order."""
        return self._in_order("test")

    def _require_files(self, stage: str) -> None:
        for split in SPLITS[stage]:
            if not self.path(split).is_file():
                raise FileNotFoundError(
                    f"{self.path(split)} does not exist; `python -m collect` writes it (pairs in stage 1, mine in "
                    f"stage 3), or point data.init_args.root at a directory that has {split}.jsonl."
                )

    def _devices(self) -> tuple[int, int]:
        """How many devices share the examples, and which of them this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _in_order(self, split: str) -> DataLoader[Any]:
        examples = Examples(self.examples[split])
        return DataLoader(
            examples,
            self.batch_size,
            sampler=OrderedShare(examples, *self._devices()),
            num_workers=self.num_workers,
            collate_fn=self.collate,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # or each validation would draw from the generator that dropout uses
        )

    def _read(self, split: str) -> None:
        """Read and tokenise one split; what is longer than ``max_length`` is an error or counted."""
        records = read_records(self.path(split), self.record)
        encoded = [self.encode(record) for record in Progress(records, f"tokenise {split}", delay=2, leave=False)]
        fits = [len(example["input_ids"]) <= self.max_length for example in encoded]
        if not all(fits):
            worst = max(len(example["input_ids"]) for example in encoded)
            found = (
                f"{fits.count(False)} of the {len(fits)} examples in {self.path(split)} have more than "
                f"max_length={self.max_length} tokens (the first is {records[fits.index(False)].id}, "
                f"the longest has {worst})"
            )
            if self.overlong == "error":
                raise ValueError(f"{found}; raise max_length, or leave them out with overlong=drop.")
            if not any(fits):
                raise ValueError(f"{found}: none is left; raise max_length.")
            log.warning("%s and are left out.", found)
        self.records[split] = [record for record, fit in zip(records, fits, strict=True) if fit]
        self.examples[split] = [{**example, "counted": 1} for example, fit in zip(encoded, fits, strict=True) if fit]
