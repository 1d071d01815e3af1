"""Which modifiers of a relation graph go with a prompt. N nodes, D dimensions, P prompts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from collect.backends.encoders import load_encoder
from collect.graph.modifiers import KINDS, normalise
from collect.graph.relation_graph import EDGE, RelationGraph

SCENES = 4096  # scenes compared at a time: few enough for the processor's cache
ROUNDING = 1e-5  # two ways of adding up one cosine differ by less

UNSAFE = (
    *("lingerie", "bikini", "underwear", "topless", "nude", "naked", "sexy"),
    *("gun", "guns", "rifle", "pistol", "weapon", "blood", "bloody", "gore", "corpse", "suicide"),
    *("drug", "drugs", "cocaine", "cigarette", "smoking", "beer", "whisky", "alcohol"),
)


@dataclass(frozen=True)
class Retrieved:
    """A modifier that goes with a prompt.

    Args:
        phrase: the modifier.
        kind: subject, action or atmosphere.
        similarity: cosine to the prompt.
        count: how often it was seen in the scenes nearest to the prompt.
    """

    phrase: str
    kind: str
    similarity: float
    count: int


@dataclass(frozen=True)
class Retrieval:
    """How modifiers are chosen.

    Args:
        num_scenes: nearest scenes whose modifiers are pooled.
        num_modifiers: modifiers to choose.
        min_similarity: cosine to the prompt below which a modifier is about something else.
        max_similarity: cosine to the prompt above which a modifier only repeats it.
        max_per_kind: quota of subjects, actions and atmospheres each.
        diversity: weight, in [0, 1], of being unlike what is chosen already, against being like the prompt.
        blocklist: words that no modifier may contain.
    """

    num_scenes: int = 3
    num_modifiers: int = 5
    min_similarity: float = 0.5
    max_similarity: float = 0.9
    max_per_kind: int = 3
    diversity: float = 0.3
    blocklist: tuple[str, ...] = UNSAFE

    def __post_init__(self) -> None:
        for name in ("num_scenes", "num_modifiers", "max_per_kind"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not -1 <= self.min_similarity <= self.max_similarity <= 1:
            raise ValueError(
                f"min_similarity and max_similarity must be in order and in [-1, 1], "
                f"got {self.min_similarity} and {self.max_similarity}."
            )
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity must be in [0, 1], got {self.diversity}.")

    @cached_property
    def _blocked(self) -> re.Pattern[str]:
        words = "|".join(re.escape(normalise(word)) for word in self.blocklist)
        return re.compile(rf"\b({words})\b" if words else "(?!)")

    def blocks(self, phrase: str) -> bool:
        """Whether a phrase contains a blocked word."""
        return self._blocked.search(phrase) is not None


def retrieve(graph: RelationGraph, prompts: Sequence[str], settings: Retrieval) -> list[list[Retrieved]]:
    """Choose modifiers for each prompt: the nearest scenes, all that goes with them, then the most fitting.

    Modifiers are chosen one by one by maximal marginal relevance, most relevant first; what is equally good is
    chosen in alphabetical order.
    """
    if not prompts:
        return []
    model = load_encoder(graph.encoder)
    vectors = np.asarray(model.encode(list(prompts), normalize_embeddings=True, show_progress_bar=False), np.float32)
    nearest = _nearest(graph, vectors, settings.num_scenes)
    return [_choose(graph, vector, scenes, settings) for vector, scenes in zip(vectors, nearest, strict=True)]


def _nearest(graph: RelationGraph, vectors: NDArray[np.float32], num_scenes: int) -> list[NDArray[np.int64]]:
    """The most similar scenes of each prompt, most similar first, by comparing all of them.

    Args:
        graph: whose scenes.
        vectors: unit vectors of the prompts, ``(P, D)``.
        num_scenes: how many to find.
    """
    found: list[list[int]] = [[] for _ in vectors]
    best = torch.full((len(vectors), 0), -1.0)
    for start in range(0, graph.num_scenes, SCENES):
        scenes = torch.from_numpy(graph.embeddings[start : min(start + SCENES, graph.num_scenes)])
        products = torch.from_numpy(vectors) @ scenes.float().T
        best = torch.cat([best, products], 1)
        best = best.topk(min(num_scenes, best.shape[1])).values
        # How a product of matrices rounds depends on where a row stands, so near-ties are kept and settled below.
        for prompt, scene in torch.nonzero(products >= best[:, -1:] - ROUNDING).numpy():
            found[prompt].append(start + int(scene))
    nearest = []
    for vector, candidates in zip(vectors, found, strict=True):
        cosines = _cosines(graph.embeddings[candidates].astype(np.float32), vector)
        order = np.argsort(-cosines, kind="stable")[:num_scenes]
        nearest.append(np.array(candidates, np.int64)[order])
    return nearest


def _choose(
    graph: RelationGraph, vector: NDArray[np.float32], scenes: NDArray[np.int64], settings: Retrieval
) -> list[Retrieved]:
    column, modifiers, counts = (graph.column(name) for name in EDGE)
    spans = [slice(*np.searchsorted(column, np.array([scene, scene + 1], column.dtype))) for scene in scenes]
    pool, places = np.unique(np.concatenate([modifiers[span] for span in spans]), return_inverse=True)
    seen = np.bincount(places, np.concatenate([counts[span] for span in spans]), len(pool)).astype(np.int64)
    vectors = torch.from_numpy(graph.embeddings[pool]).float().numpy()
    scores = np.clip(_cosines(vectors, vector), -1, 1)  # vectors in half precision may be a little long
    fits = np.flatnonzero((settings.min_similarity <= scores) & (scores <= settings.max_similarity))
    pool, vectors, scores, seen = pool[fits], vectors[fits], scores[fits], seen[fits]
    kinds = graph.kinds(pool)
    left = np.ones(len(pool), bool)
    repeats = np.zeros(len(pool), np.float32)
    chosen: list[Retrieved] = []
    while left.any() and len(chosen) < settings.num_modifiers:
        gains = (1 - settings.diversity) * scores - settings.diversity * repeats
        best = int(np.where(left, gains, -np.inf).argmax())
        left[best] = False
        [phrase] = graph.phrases(pool[[best]])
        if settings.blocks(phrase) or any(phrase == other.phrase for other in chosen):
            continue
        alike = _cosines(vectors, vectors[best])
        repeats = np.maximum(repeats, alike) if chosen else alike
        kind = KINDS[kinds[best]]
        chosen.append(Retrieved(phrase, kind, round(float(scores[best]), 4), int(seen[best])))
        if sum(other.kind == kind for other in chosen) >= settings.max_per_kind:
            left &= kinds != kinds[best]
    return chosen


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of unit vectors, ``(N, D)`` and ``(D,)``; the same vector gives the same cosine in any row."""
    return np.asarray(np.einsum("nd,d->n", vectors, vector))
