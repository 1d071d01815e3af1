"""Stage 1's choice: asking a trained discriminator which of two rewrites the video model draws better."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from collect.backends.transformers_lm import TransformersLM
from data_modules.records import Messages, Prompt
from data_modules.templates import CHOICE_LABELS, choose


class Discriminator:
    """A language model that was trained to choose between two rewrites.

    Args:
        language_model: what ``train export`` wrote of a :class:`~models.DiscriminatorModule`.
    """

    def __init__(self, language_model: TransformersLM) -> None:
        self.language_model = language_model

    def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        """Probability that the first rewrite of each prompt is the better one.

        The mean over both orders of showing them, so that it does not matter which is called the first.

        Args:
            prompts: what the users asked for.
            firsts: a rewrite of each.
            seconds: another rewrite of each.
        """
        triples = list(zip(prompts, firsts, seconds, strict=True))
        shown = self.first_probabilities([choose(prompt, first, second) for prompt, first, second in triples])
        swapped = self.first_probabilities([choose(prompt, second, first) for prompt, first, second in triples])
        return [float(value) for value in (shown + 1 - swapped) / 2]

    def first_probabilities(self, conversations: Sequence[Messages]) -> NDArray[np.float64]:
        """Probability ``(N,)`` that the answer to each conversation is the label A rather than B."""
        return np.exp(self.language_model.label_log_probs(conversations, CHOICE_LABELS)[:, 0])
