"""Prompt-completion pairs for supervised fine-tuning. B examples, T tokens."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data_modules.base import Example, JSONLDataModule
from data_modules.records import Rewrite


class SFTDataModule(JSONLDataModule):
    """Conversations rendered by the tokenizer's chat template; only the completion is learned.

    A batch holds ``input_ids``, ``attention_mask`` and ``completion_mask``, each ``(B, T)``, padded on the right.

    Args:
        **kwargs: see :class:`~data_modules.base.JSONLDataModule`.
    """

    record: ClassVar[type[Rewrite]] = Rewrite

    def encode(self, record: Rewrite) -> Example:
        """Tokenise the prompt as it is tokenised at inference, then the completion, and join them.

        Raises:
            ValueError: if the record is empty, or the chat template would teach what inference does not ask.
        """
        if not record.prompt or not record.completion:
            raise ValueError(f"record {record.id} has an empty prompt or completion; write it again with messages.")
        prompt = self.tokenizer.apply_chat_template(record.prompt, tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template([*record.prompt, *record.completion], tokenize=False)
        if not whole.startswith(prompt):
            raise ValueError(
                f"the chat template of {self.pretrained} changes the prompt of record {record.id} once it is answered, "
                "so what is trained would not be what is asked; use a template that only appends."
            )
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        completion_ids = self.tokenizer(whole.removeprefix(prompt), add_special_tokens=False).input_ids
        if self.tokenizer.eos_token_id not in completion_ids:
            raise ValueError(
                f"the chat template of {self.pretrained} does not end an answer with its end token "
                f"{self.tokenizer.eos_token!r}, so generation would never stop; set the tokenizer's eos_token to it."
            )
        return {
            "input_ids": [*prompt_ids, *completion_ids],
            "completion_mask": [0] * len(prompt_ids) + [1] * len(completion_ids),
        }

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Pad on the right, to the longest of the batch."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        masks = [torch.tensor(example["completion_mask"]) for example in examples]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "completion_mask": pad_sequence(masks, batch_first=True),
        }
