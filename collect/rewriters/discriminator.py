"""Stage 1's choice: asking a trained discriminator which of two rewrites the video model draws better."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from collect.backends.transformers_lm import TransformersLM
from collect.intent.gate import IntentGate
from collect.protocols import Rewriter
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


class ChoosingRewriter:
    """Rewrites prompts in several ways and takes the rewrite that the discriminator finds best.

    The gate decides first: what it fails is never taken, and where nothing passes, the raw prompt is the answer.

    Args:
        candidates: two or more rewriters by name, as collect labels had them; of equals the first is taken.
        discriminator: compares every two of their rewrites.
        gate: what a rewrite must pass.

    Raises:
        ValueError: if there is nothing to choose between.
    """

    def __init__(self, candidates: dict[str, Rewriter], discriminator: Discriminator, gate: IntentGate) -> None:
        if len(candidates) < 2:
            raise ValueError(f"candidates must name at least two rewriters, got {', '.join(candidates) or 'none'}.")
        self.candidates = candidates
        self.discriminator = discriminator
        self.gate = gate

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt, or return it as it is where no candidate passes the gate."""
        rows = zip(*(rewriter.rewrite(prompts) for rewriter in self.candidates.values()), strict=True)
        offered = [(prompt, text) for prompt, row in zip(prompts, rows, strict=True) for text in row]
        reports = self.gate.check([(prompt.prompt, text) for prompt, text in offered])
        wins: dict[Prompt, dict[str, float]] = {prompt: {} for prompt in prompts}  # of each text that passes
        for (prompt, text), report in zip(offered, reports, strict=True):
            if report.passed and text != prompt.prompt:
                wins[prompt][text] = 0.0
        duels = [(prompt, *duel) for prompt, texts in wins.items() for duel in combinations(texts, 2)]
        if duels:
            chosen = self.discriminator.choose(*zip(*duels, strict=True))
            for (prompt, first, second), first_wins in zip(duels, chosen, strict=True):
                wins[prompt][first] += first_wins
                wins[prompt][second] += 1 - first_wins
        return [max(wins[prompt], key=wins[prompt].__getitem__, default=prompt.prompt) for prompt in prompts]
