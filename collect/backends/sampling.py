"""Sampling that depends on a conversation and a seed, and on nothing else. B rows, V vocabulary."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
)


class GumbelNoise(LogitsProcessor):
    """Turns the largest logit into an exact sample, with a noise stream of each conversation's own.

    ``argmax(logits / temperature + Gumbel noise)`` is distributed as ``softmax(logits / temperature)``. With one
    stream per row, what is sampled for a conversation cannot depend on its neighbours in the batch.

    Args:
        temperature: above 0; lower is closer to the most likely answer.
        seeds: one per row of the batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to the scores, ``(B, V)``."""
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=stream) for stream in self.streams])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores.float() / self.temperature + noise.to(scores.device)


def seeds_for(texts: Sequence[str], seed: int) -> list[int]:
    """Derive a seed from each text; texts that are the same get different ones."""
    seen: Counter[str] = Counter()
    seeds = []
    for text in texts:
        digest = hashlib.sha256(f"{seed}\x1f{seen[text]}\x1f{text}".encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 1)
        seen[text] += 1
    return seeds
