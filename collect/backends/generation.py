"""How answers of models in this process end. B rows, T tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria

from collect.backends.reasoning import ONLY_REASONING, without_reasoning
from collect.protocols import Answer

EVERY = 8  # tokens between two looks
NUM_REPEATS = 3  # times that the same tokens come one after the other
LEAST = 48  # tokens that a loop has by then


class Loops(StoppingCriteria):
    """Ends answers that say the same again and again. A row's end depends on its own tokens only.

    Args:
        start: number of tokens of the prompts.
        padding: the token of rows that have ended.
    """

    def __init__(self, start: int, padding: int | None) -> None:
        self.start = start
        self.padding = padding
        self.found: Tensor | None = None  # (B,), rows that were ended

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Whether each row repeats itself, ``(B,)``; tokens are ``(B, T)``."""
        tokens = input_ids[:, self.start :]
        if self.found is None:
            self.found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        length = tokens.shape[1]
        if length >= LEAST and length % EVERY == 0:
            going = tokens[:, -1] != self.padding if self.padding is not None else torch.ones_like(self.found)
            for period in range(1, length // NUM_REPEATS + 1):
                tail = tokens[:, -max(LEAST, NUM_REPEATS * period) :]
                self.found |= going & (tail[:, period:] == tail[:, :-period]).all(1)
        return self.found


def cut_after(num_tokens: int) -> str:
    """What is wrong with an answer that had not ended after so many tokens."""
    return f"it was cut after {num_tokens} tokens, raise max_new_tokens"


def read(
    generated: Tensor,
    num_new: int,
    loops: Loops,
    settings: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    begun: str = "",
) -> list[Answer]:
    """The answers in what was generated, and whether each is whole.

    Args:
        generated: tokens after the prompts, ``(B, T)``; padded on the right.
        num_new: tokens that an answer could have.
        loops: what ended rows that repeated themselves.
        settings: what was generated with.
        tokenizer: turns tokens into text.
        begun: the mark of reasoning that the prompts end with, see :func:`~collect.backends.reasoning.begun_in`.
    """
    looped = [False] * len(generated) if loops.found is None else loops.found.tolist()
    ids = settings.eos_token_id
    ends = set(ids if isinstance(ids, list) else [ids])
    stops = tuple(settings.stop_strings or ())
    answers = []
    for tokens, in_a_loop in zip(generated.tolist(), looped, strict=True):
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        text, fault = _decode(tokens[:end], tokenizer, begun)
        if end is None and not (stops and text.endswith(stops)):
            fault = "it repeats itself without end" if in_a_loop else cut_after(num_new)
        answers.append(Answer(text, fault))
    return answers


def _decode(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, begun: str) -> tuple[str, str | None]:
    """Text without special tokens, once those that mark reasoning have served; and whether there was nothing else."""
    text, marked = (
        str(tokenizer.decode(tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False)).strip()
        for skip in (True, False)
    )
    answer = without_reasoning(begun + marked)
    if answer == marked:
        return text, None
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for special in sorted(specials, key=len, reverse=True):
        answer = answer.replace(special, "")
    return answer.strip(), None if answer.strip() else ONLY_REASONING
