"""Prompt-completion pairs for supervised fine-tuning. B rows, T tokens."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from data_modules.base import Example, JSONLDataModule
from data_modules.chat_template import without_empty_reasoning
from data_modules.records import Messages, Rewrite


class ChatDataModule(JSONLDataModule):
    """Conversations rendered by the tokenizer's chat template.

    Args:
        **kwargs: see :class:`~data_modules.base.JSONLDataModule`.
    """

    @cached_property
    def end_ids(self) -> set[int]:
        """What ends an answer: the tokenizer's end token, and those that the model's generation settings name."""
        try:
            also = GenerationConfig.from_pretrained(self.pretrained).eos_token_id
        except OSError:
            also = None
        ends = also if isinstance(also, list) else [also]
        return {int(end) for end in [self.tokenizer.eos_token_id, *ends] if end is not None}

    def tokenise(self, record_id: str, prompt: Messages, answer: Messages) -> tuple[list[int], list[int]]:
        """Tokenise the prompt as it is tokenised at inference, and the answer with its end.

        Raises:
            ValueError: if the record is empty, or the chat template would teach what inference does not ask.
        """
        if not prompt or not answer:
            raise ValueError(f"record {record_id} has an empty prompt or completion; write it again with messages.")
        asked = self.render(prompt)
        whole = self.render([*prompt, *answer], add_generation_prompt=False)
        shared = asked if whole.startswith(asked) else without_empty_reasoning(asked)
        if not whole.startswith(shared):
            raise ValueError(
                f"the chat template of {self.pretrained} changes the prompt of record {record_id} once it is answered, "
                "so what is trained would not be what is asked; use a template that only appends, and answers without "
                "reasoning."
            )
        prompt_ids = self.tokenizer(asked, add_special_tokens=False).input_ids
        answer_ids = self.tokenizer(whole.removeprefix(shared), add_special_tokens=False).input_ids
        if not self.end_ids & set(answer_ids):
            raise ValueError(
                f"the chat template of {self.pretrained} does not end an answer with its end token "
                f"{self.tokenizer.eos_token!r}, nor with another that its generation_config.json names, so generation "
                "would never stop; set the tokenizer's eos_token to it."
            )
        return prompt_ids, answer_ids


class SFTDataModule(ChatDataModule):
    """Conversations of which only the completion is learned.

    A batch holds ``input_ids`` and ``completion_mask``, ``(B, T)``, padded on the right, and either, without packing,
    ``attention_mask``, or ``position_ids``. With packing a row holds several examples, whose positions start again at
    0, by which the network's attention keeps them apart. The examples of a batch, and so what is learned from it, are
    the same with and without.

    Args:
        packing: share rows of up to ``max_length`` tokens among the examples of a batch, instead of one row each.
        **kwargs: see :class:`~data_modules.base.JSONLDataModule`.
    """

    record: ClassVar[type[Rewrite]] = Rewrite

    def __init__(self, packing: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.packing = packing

    def encode(self, record: Rewrite) -> Example:
        """Tokenise the prompt, then the completion, and join them."""
        prompt, completion = self.tokenise(record.id, record.prompt, record.completion)
        return {"input_ids": [*prompt, *completion], "completion_mask": [0] * len(prompt) + [1] * len(completion)}

    def num_tokens(self, example: Example) -> int:
        """How many tokens the completion has."""
        return sum(example["completion_mask"])

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Lay the examples out in rows and pad those to the longest."""
        examples = [example if example["counted"] else unscored(example) for example in examples]
        lengths = [len(example["input_ids"]) for example in examples]
        rows = pack(lengths, self.max_length) if self.packing else [[index] for index in range(len(examples))]
        pads = {"input_ids": self.pad_id}
        batch = {
            name: pad_sequence(
                [torch.tensor([value for index in row for value in examples[index][name]]) for row in rows],
                batch_first=True,
                padding_value=pads.get(name, 0),
            )
            for name in ("input_ids", "completion_mask")
        }
        if not self.packing:
            return {**batch, "attention_mask": pad_sequence([torch.ones(n) for n in lengths], batch_first=True).long()}
        positions = [torch.cat([torch.arange(lengths[index]) for index in row]) for row in rows]
        # Padding has position 0 throughout: each such token is a sequence of its own, and nothing sees it.
        return {**batch, "position_ids": pad_sequence(positions, batch_first=True)}


def unscored(example: Example) -> Example:
    """An example of which nothing is learned."""
    return {**example, "completion_mask": [0] * len(example["completion_mask"])}


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute examples over as few rows as hold them, evenly: longest first, each into the emptiest row.

    Args:
        lengths: tokens of each example, none above ``capacity``.
        capacity: most tokens of a row.

    Returns:
        Indices of examples by row.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for num_rows in range(-(-sum(lengths) // capacity), len(lengths) + 1):
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        loads = [0] * num_rows
        for index in order:
            emptiest = loads.index(min(loads))
            rows[emptiest].append(index)
            loads[emptiest] += lengths[index]
        if max(loads) <= capacity:
            return rows
    raise AssertionError(f"an example is longer than {capacity}")
