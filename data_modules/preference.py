"""Preference pairs, two answers to one prompt in a row. B pairs, T tokens."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from data_modules.base import Example
from data_modules.loader import ResumableLoader
from data_modules.progress import Progress
from data_modules.records import Preference
from data_modules.sft import ChatDataModule

log = logging.getLogger(__name__)


@runtime_checkable
class ReferencePolicy(Protocol):
    """What the module that trains on pairs must offer."""

    def reference_log_probs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen and rejected answers, each ``(B,)``, under the policy to stay close to."""

    def reference_fingerprint(self) -> str:
        """Hash of what decides them."""


class PreferenceDataModule(ChatDataModule):
    """Pairs with the reference policy's log-probabilities, which are computed once and kept beside the records.

    The prompt that both answers share is in a row once: a row is the prompt without its last token, then that token
    and the chosen answer, then that token again and the rejected answer, which does not see the chosen one. So every
    answer token is predicted at the position before its own, as in any other row.

    A batch holds ``input_ids``, ``position_ids``, ``chosen_mask`` and ``rejected_mask``, ``(B, T)``, padded on the
    right, ``attention_mask``, ``(B, 1, T, T)``, true where a token sees another; ``counted``, ``(B,)``, 0 for pairs
    that are not scored; and ``ref_chosen_logps`` and ``ref_rejected_logps``, ``(B,)``, in nats, single precision seen
    as integers, or training in half precision would round them.

    Args:
        **kwargs: see :class:`~data_modules.base.JSONLDataModule`; ``max_length`` is that of a whole row.
    """

    record: ClassVar[type[Preference]] = Preference

    def encode(self, record: Preference) -> Example:
        """Tokenise the prompt as it is tokenised at inference, then both answers.

        Raises:
            ValueError: if the record is empty, or the chat template would teach what inference does not ask.
        """
        prompt, chosen = self.tokenise(record.id, record.prompt, record.chosen)
        _, rejected = self.tokenise(record.id, record.prompt, record.rejected)
        *shared, last = prompt
        return {
            "input_ids": [*shared, last, *chosen, last, *rejected],
            "lengths": [len(shared), 1 + len(chosen), 1 + len(rejected)],
        }

    def num_tokens(self, example: Example) -> int:
        """How many tokens the chosen answer has; the copy of the prompt's last token before it is not learned."""
        return int(example["lengths"][1]) - 1

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Pad on the right, to the longest row of the batch."""
        rows = [pair_row(example) for example in examples]
        pads = {"input_ids": self.pad_id}
        batch = {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=pads.get(name, 0))
            for name in rows[0]
        }
        batch["attention_mask"] = branches_mask(batch.pop("branch"))
        batch["counted"] = torch.tensor([example["counted"] for example in examples])
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples]).view(torch.int32)
        return batch

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training batches, once the reference has seen them."""
        self._add_reference("train")
        return super().train_dataloader()

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in file order, once the reference has seen them."""
        self._add_reference("val")
        return super().val_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in file order, once the reference has seen them."""
        self._add_reference("test")
        return super().test_dataloader()

    def reference_path(self, split: str) -> Path:
        """Where a split's reference log-probabilities are kept."""
        return self.root / f"{split}.reference.safetensors"

    def _add_reference(self, split: str) -> None:
        """Give every example its reference log-probabilities, from the file if that was made of the same pairs."""
        examples = self.examples[split]
        if "ref_chosen_logps" in examples[0]:
            return
        module = self.trainer.lightning_module if self.trainer else None
        if not isinstance(module, ReferencePolicy):
            raise ValueError(
                f"PreferenceDataModule needs a module with a reference policy, such as models.DPOModule, "
                f"got {type(module).__name__}."
            )
        key = hashlib.blake2b(json.dumps([module.reference_fingerprint(), examples]).encode()).hexdigest()
        values = read_reference(self.reference_path(split), key)
        if values is None:
            values = self._score(module, examples)
            write_reference(self.reference_path(split), key, values)
        for example, chosen, rejected in zip(examples, *(column.tolist() for column in values), strict=True):
            example |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    def _score(self, module: ReferencePolicy, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        order = sorted(range(len(examples)), key=lambda index: len(examples[index]["input_ids"]))
        columns = torch.zeros(2, len(examples))
        for begin in Progress(range(0, len(order), self.batch_size), "reference", delay=2, leave=False):
            some = order[begin : begin + self.batch_size]
            scores = module.reference_log_probs(self.collate([examples[index] for index in some]))
            columns[:, some] = torch.stack(scores).float().cpu()
        return columns[0], columns[1]


def pair_row(example: Example) -> dict[str, Tensor]:
    """Lay out one pair; ``branch`` is 1 on the shared prompt, 2 and 3 on the answers and 0 on padding."""
    shared, chosen, rejected = example["lengths"]
    counts = torch.tensor([shared, chosen, rejected])
    branch = torch.repeat_interleave(torch.tensor([1, 2, 3]), counts)
    positions = [torch.arange(shared), torch.arange(shared, shared + chosen), torch.arange(shared, shared + rejected)]
    starts = torch.zeros_like(branch)
    starts[[shared, shared + chosen]] = 1  # the copies of the prompt's last token, which no answer has to give
    return {
        "input_ids": torch.tensor(example["input_ids"]),
        "position_ids": torch.cat(positions),
        "chosen_mask": (branch == 2).long() - starts * (branch == 2),
        "rejected_mask": (branch == 3).long() - starts * (branch == 3),
        "branch": branch,
    }


def branches_mask(branch: Tensor) -> Tensor:
    """Let every token see itself, what came before it in its own branch, and the shared prompt.

    Args:
        branch: ``(B, T)``, see :func:`pair_row`.

    Returns:
        ``(B, 1, T, T)``, true where the row sees the column.
    """
    length = branch.shape[1]
    before = torch.ones(length, length, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    shared = (branch == 1)[:, None, :]
    return ((same | shared) & before)[:, None]


def read_reference(path: Path, key: str) -> tuple[Tensor, Tensor] | None:
    """Read log-probabilities that were made under a key; ``None`` if there are none."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("chosen"), file.get_tensor("rejected")
    except SafetensorError as error:
        log.warning("%s is not whole (%s) and is made again.", path, error)
        return None
    log.info("%s belongs to other pairs or another model and is made again.", path)
    return None


def write_reference(path: Path, key: str, values: tuple[Tensor, Tensor]) -> None:
    """Keep log-probabilities for the next run, replacing the file only once it is whole; several ranks may do so."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        save_file(dict(zip(("chosen", "rejected"), values, strict=True)), partial, metadata={"key": key})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        log.warning("%s can't be written (%s); the next run computes it again.", path, error)
