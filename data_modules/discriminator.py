"""Choices between two rewrites, for the discriminator. B examples, T tokens, L labels."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data_modules.base import Example, JSONLDataModule
from data_modules.records import Choice
from data_modules.templates import CHOICE_LABELS


class DiscriminatorDataModule(JSONLDataModule):
    """Questions rendered by the tokenizer's chat template up to where the answer, a label, begins.

    A batch holds ``input_ids`` and ``attention_mask``, ``(B, T)`` and padded on the left, so that the last position
    predicts the answer; ``labels`` ``(B,)``, the index of the right label; ``label_ids`` ``(B, L)``, the first token of
    each label as the answer; and ``counted``, ``(B,)``, 0 for questions that are not scored.

    Args:
        **kwargs: see :class:`~data_modules.base.JSONLDataModule`.
    """

    record: ClassVar[type[Choice]] = Choice

    def encode(self, record: Choice) -> Example:
        """Tokenise the question as it is tokenised at inference.

        Raises:
            ValueError: if the record's label is none, or is not that of the higher score; or if the labels do not begin
                with tokens of their own.
        """
        if record.label not in CHOICE_LABELS or len(record.scores) != len(CHOICE_LABELS):
            raise ValueError(
                f"record {record.id} has label {record.label!r} and {len(record.scores)} scores; a choice has one of "
                f"the labels {', '.join(CHOICE_LABELS)} and a score for each."
            )
        label = CHOICE_LABELS.index(record.label)
        scores = list(record.scores.values())
        if scores[label] <= scores[1 - label]:
            raise ValueError(
                f"record {record.id} has label {record.label} though its scores are {record.scores}, A's first; "
                "the label is that of the higher score."
            )
        text = self.render(record.prompt)
        answered = [text, *(text + name for name in CHOICE_LABELS)]
        question, *answers = self.tokenizer(answered, add_special_tokens=False).input_ids
        # A tokenizer may look at what is before a label.
        firsts = [
            ids[len(question)] for ids in answers if len(ids) > len(question) and ids[: len(question)] == question
        ]
        if len(set(firsts)) < len(CHOICE_LABELS):
            raise ValueError(
                f"the tokenizer of {self.pretrained} does not begin the answers {' and '.join(CHOICE_LABELS)} with "
                "tokens of their own; name a model whose tokenizer tells them apart."
            )
        return {"input_ids": question, "labels": [label], "label_ids": firsts}

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Pad on the left, to the longest of the batch."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        pad = self.pad_id
        ones = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad, padding_side="left"),
            "attention_mask": pad_sequence(ones, batch_first=True, padding_side="left"),
            "labels": torch.tensor([example["labels"][0] for example in examples]),
            "label_ids": torch.tensor([example["label_ids"] for example in examples]),
            "counted": torch.tensor([example["counted"] for example in examples]),
        }
