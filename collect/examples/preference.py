"""Which of two wordings of one prompt is the better one, and how surely: stage 3's preference pairs.

All candidates of a prompt were rendered with the same seeds, so candidates are compared video by video: a pair's
difference is taken per seed and its standard error is that of those differences. M metrics, S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from collect.backends.answers import write
from collect.intent.gate import IntentGate
from collect.intent.problems import doubles_a_word
from collect.protocols import LanguageModel
from collect.search.sspo import Trajectory
from data_modules.records import Prompt
from data_modules.templates import refactor

SeedScores = Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]


@dataclass(frozen=True)
class Judged:
    """One candidate of a search and what each of its videos scored.

    Args:
        text: what was rendered.
        origin: where it came from.
        scores: ``(M, S)``, metrics in the order of their names; ``(M, 0)`` where no or not every video was judged.
    """

    text: str
    origin: str
    scores: NDArray[np.float64]

    @property
    def composite(self) -> float:
        """Mean over metrics and seeds."""
        return float(self.scores.mean())


@dataclass(frozen=True)
class PairRule:
    """What it takes to prefer one rewrite to another.

    Args:
        tolerance: standard errors by which the chosen text may be worse on a metric.
        min_gap_deviations: least gap of the composite score (the mean over metrics), in standard deviations of the
            composite among the candidates of one prompt, pooled over prompts.
        min_gap_errors: the same in standard errors of the gap; both must hold.
        min_seeds: with fewer seeds a variance is pooled over all pairs, because so few values give none worth having.
        floors: what the chosen text must score at least, by metric.
        max_length_ratio: words of the longer text per word of the shorter one.
        max_pairs: most pairs of one prompt, the widest gaps first.
        text_share: at most this share of all pairs is a rewrite that the gate refused against one that it passed.
        num_rewrites: rewrites sampled per prompt in search of ones that the gate refuses.
        min_pairs: fewer pairs than this are an error.
    """

    tolerance: float = 1.0
    min_gap_deviations: float = 1.0
    min_gap_errors: float = 2.0
    min_seeds: int = 4
    floors: dict[str, float] = field(default_factory=dict)
    max_length_ratio: float = 1.25
    max_pairs: int = 2
    text_share: float = 0.3
    num_rewrites: int = 4
    min_pairs: int = 2

    def check(self, metrics: Sequence[str]) -> None:
        """Refuse numbers that make no sense.

        Raises:
            ValueError: naming the setting.
        """
        for name in ("tolerance", "min_gap_deviations", "min_gap_errors"):
            if getattr(self, name) < 0:
                raise ValueError(f"preference.{name} must be at least 0, got {getattr(self, name)}.")
        for name, least in (("max_pairs", 1), ("num_rewrites", 1), ("min_pairs", 2), ("max_length_ratio", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"preference.{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.text_share < 1:
            raise ValueError(f"preference.text_share must be in [0, 1), got {self.text_share}.")
        for name in self.floors:
            if name not in metrics:
                raise ValueError(f"preference.floors has {name!r}; the metrics that rank are {', '.join(metrics)}.")

    def above_floors(self, text: Judged, metrics: Sequence[str]) -> bool:
        """Whether a text scores enough on every metric."""
        means = dict(zip(metrics, text.scores.mean(axis=1), strict=True))
        return all(means[name] >= floor for name, floor in self.floors.items())


DEFAULT_RULE = PairRule()


@dataclass(frozen=True)
class Group:
    """All candidates of one prompt."""

    prompt: Prompt
    seeds: list[int]
    candidates: list[Judged]

    @property
    def scored(self) -> list[Judged]:
        """Those that can be compared."""
        return [candidate for candidate in self.candidates if candidate.scores.size]


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected text of one prompt."""

    group: Group
    chosen: Judged
    rejected: Judged
    kind: Literal["video", "text"]

    @property
    def margin(self) -> float | None:
        """By how much the composite is higher, where that is what decided."""
        return self.chosen.composite - self.rejected.composite if self.kind == "video" else None


def groups_of(searches: Sequence[Trajectory], scores: SeedScores, metrics: Sequence[str]) -> list[Group]:
    """Arrange what was scored by search and candidate; one that lacks a score, as after a failed render, has none."""
    groups = []
    for search in searches:
        rows = [scores.get((search.prompt.id, candidate.text), {}) for candidate in search.candidates]
        seeds = sorted({seed for by_seed in rows for seed in by_seed})
        judged = []
        for candidate, by_seed in zip(search.candidates, rows, strict=True):
            whole = all(by_seed.get(seed, {}).keys() >= set(metrics) for seed in seeds)
            values = [[by_seed[seed][metric] for seed in seeds] if whole else [] for metric in metrics]
            judged.append(Judged(candidate.text, candidate.proposal.origin, np.array(values)))
        groups.append(Group(search.prompt, seeds, judged))
    return groups


def spread(groups: Sequence[Group]) -> float:
    """Standard deviation of the composite among the candidates of one prompt, pooled over prompts."""
    rows = [np.array([c.composite for c in group.scored]) for group in groups if len(group.scored) > 1]
    freedom = sum(len(row) - 1 for row in rows)
    return float(np.sqrt(sum(((row - row.mean()) ** 2).sum() for row in rows) / freedom)) if freedom else 0.0


def standard_errors(differences: NDArray[np.float64], min_seeds: int) -> NDArray[np.float64]:
    """Standard errors of mean differences.

    Args:
        differences: ``(P, S)``, one row per pair.
        min_seeds: with fewer columns the variance is pooled over the rows.

    Returns:
        ``(P,)``.
    """
    variances = differences.var(axis=1, ddof=1)
    if differences.shape[1] < min_seeds:
        variances = np.full(len(differences), variances.mean())
    return np.sqrt(variances / differences.shape[1])


def video_pairs(
    groups: Sequence[Group],
    gate: IntentGate,
    rule: PairRule,
    metrics: Sequence[str],
    targets: Sequence[str],
) -> tuple[list[Pair], dict[str, int]]:
    """Choose pairs by what their videos scored.

    Args:
        groups: candidates by prompt, each with the same number of seeds, at least two.
        gate: what a chosen text must pass; nor may it double a word.
        rule: what else it takes.
        metrics: the rows of the scores.
        targets: metrics on at least one of which the chosen text must be better.

    Returns:
        Pairs, widest gap of a prompt first, and how many each step left.
    """
    pairs = [
        Pair(group, better, worse, "video")
        for group in groups
        for better, worse in permutations(group.scored, 2)
        if better.composite > worse.composite
    ]
    funnel = {"pairs": len(pairs)}
    if not pairs:
        return [], funnel
    differences = np.stack([pair.chosen.scores - pair.rejected.scores for pair in pairs])  # (P, M, S)
    gaps = differences.mean(axis=(1, 2))
    gap_errors = standard_errors(differences.mean(axis=1), rule.min_seeds)
    means = differences.mean(axis=2)
    errors = np.stack([standard_errors(differences[:, m], rule.min_seeds) for m in range(len(metrics))], axis=1)
    aims = [index for index, name in enumerate(metrics) if name in targets]
    texts = list(dict.fromkeys((pair.group.prompt.prompt, pair.chosen.text) for pair in pairs))
    reports = gate.check(texts)
    passed = {text for text, report in zip(texts, reports, strict=True) if report.passed and not doubles_a_word(*text)}

    steps = {
        "gated": [(pair.group.prompt.prompt, pair.chosen.text) in passed for pair in pairs],
        "floored": [rule.above_floors(pair.chosen, metrics) for pair in pairs],
        "dominant": (means >= -rule.tolerance * errors).all(axis=1) & (means[:, aims] > 0).any(axis=1),
        "clear": gaps >= np.maximum(rule.min_gap_deviations * spread(groups), rule.min_gap_errors * gap_errors),
        "even": [length_ratio(pair.chosen.text, pair.rejected.text) <= rule.max_length_ratio for pair in pairs],
    }
    left = np.ones(len(pairs), dtype=bool)
    for step, holds in steps.items():
        left &= np.asarray(holds)
        funnel[step] = int(left.sum())
    best = sorted(
        np.flatnonzero(left), key=lambda index: (-gaps[index], pairs[index].chosen.text, pairs[index].rejected.text)
    )
    kept: dict[str, list[Pair]] = {}
    for index in best:
        of_prompt = kept.setdefault(pairs[index].group.prompt.prompt, [])
        if len(of_prompt) < rule.max_pairs:
            of_prompt.append(pairs[index])
    chosen = [pair for of_prompt in kept.values() for pair in of_prompt]
    return chosen, funnel | {"video": len(chosen)}


def text_pairs(
    groups: Sequence[Group],
    taken: Sequence[Pair],
    gate: IntentGate,
    rule: PairRule,
    metrics: Sequence[str],
    language_model: LanguageModel | None,
) -> list[Pair]:
    """Set rewrites that the gate refused against the best one that it passed.

    The refused ones are candidates of the search, if the gate is stricter now than it was then, and answers of the
    language model to the rewriter's own template: mistakes that it makes.

    Args:
        groups: candidates by prompt.
        taken: pairs chosen before, which count towards the most of a prompt and decide how many more there may be.
        gate: tells one kind from the other.
        rule: quota, floors, length ratio and number of answers.
        metrics: the rows of the scores.
        language_model: asked for rewrites; it must sample, or all answers to a prompt are the same.
    """
    quota = int(len(taken) * rule.text_share / (1 - rule.text_share) + 1e-9)
    if not quota:
        return []
    texts: list[tuple[Group, Judged]] = [(group, c) for group in groups for c in group.candidates]
    if language_model is not None:
        asked = [group for group in groups for _ in range(rule.num_rewrites)]
        prompts = [group.prompt for group in asked]
        requests = [refactor(prompt.prompt, prompt.task) for prompt in prompts]
        answers = write(language_model, requests, [prompt.prompt for prompt in prompts], seed=0)
        known = {(group.prompt.id, candidate.text) for group, candidate in texts}
        for group, answer in zip(asked, map(str, answers), strict=True):
            if answer and (group.prompt.id, answer) not in known:
                known.add((group.prompt.id, answer))
                rows = len(group.candidates[0].scores)
                texts.append((group, Judged(answer, "sampled", np.empty((rows, 0)))))
    reports = gate.check([(group.prompt.prompt, text.text) for group, text in texts])
    passed: dict[str, list[Judged]] = {}
    refused: dict[str, list[Judged]] = {}
    for (group, text), report in zip(texts, reports, strict=True):
        (passed if report.passed else refused).setdefault(group.prompt.id, []).append(text)
    counts: dict[str, int] = {}
    for pair in taken:
        counts[pair.group.prompt.prompt] = counts.get(pair.group.prompt.prompt, 0) + 1
    found: list[Pair] = []
    for group in sorted(groups, key=lambda group: group.prompt.id):
        rendered = [
            text
            for text in passed.get(group.prompt.id, [])
            if text.scores.size
            and rule.above_floors(text, metrics)
            and not doubles_a_word(group.prompt.prompt, text.text)
        ]
        for worse in refused.get(group.prompt.id, []):
            even = [t for t in rendered if length_ratio(t.text, worse.text) <= rule.max_length_ratio]
            count = counts.get(group.prompt.prompt, 0)
            if even and count < rule.max_pairs and len(found) < quota:
                better = max(even, key=lambda text: (text.composite, -len(text.text), text.text))
                found.append(Pair(group, better, worse, "text"))
                counts[group.prompt.prompt] = count + 1
    return found


def length_ratio(first: str, second: str) -> float:
    """Words of the longer text per word of the shorter one; infinite where one has none."""
    shorter, longer = sorted((len(first.split()), len(second.split())))
    return longer / shorter if shorter else float("inf")
