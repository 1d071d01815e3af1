"""How varied the details are that rewrites add."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from collect.intent.words import lemma, tokenise

NUM_WORDS = 100


def added_words(raw: str, rewrite: str) -> list[str]:
    """The content words of a rewrite, by lemma, that its prompt does not have; repeats count."""
    said = {lemma(token.text) for token in tokenise(raw)}
    return [word for token in tokenise(rewrite) if token.content and (word := lemma(token.text)) not in said]


def variety(pairs: Sequence[tuple[str, str]], num_words: int = NUM_WORDS) -> float | None:
    """Expected number of distinct words among so many that are drawn, without replacement, from all that were added.

    Rarefaction (Hurlbert 1971, https://doi.org/10.2307/1934145): unlike a share of distinct words it does not fall as
    rewrites get longer or more prompts are asked.

    Args:
        pairs: raw prompts and their rewrites.
        num_words: drawn.

    Returns:
        Between 1, if all rewrites add one and the same word, and ``num_words``, if none adds a word that another adds;
        ``None`` if fewer words were added than are drawn.
    """
    counts = np.array(list(Counter(word for pair in pairs for word in added_words(*pair)).values()), float)
    total = counts.sum()
    if total < num_words:
        return None
    # A word is missed with probability C(total - count, num_words) / C(total, num_words).
    left = total - counts
    possible = left >= num_words
    log_missed = _log_choose(left[possible], num_words) - _log_choose(np.array(total), num_words)
    return float(len(counts) - np.exp(log_missed).sum())


def _log_choose(total: np.ndarray, chosen: int) -> np.ndarray:
    return gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1)
