"""An evaluation's numbers: means with intervals, paired by prompt. P prompts."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from collect.evaluation.answers import Method
from collect.evaluation.variety import variety
from collect.intent.gate import IntentGate
from collect.search.sspo import mean
from data_modules.records import Prompt, Result

logger = logging.getLogger(__name__)

RAW = "raw"
SEARCH = "sspo"
BEST_OF_N = "best_of_n"
STAGE1 = "sspo/stage1"  # what the search started from; sspo/ROUND and best_of_n/ROUND are its course
NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts, or a ratio of two, with its 95 % interval by bootstrap over prompts."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Three digits, two for the interval."""
        return f"{self.mean:.3f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def signed(self) -> str:
        """As a difference."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def percent(self) -> str:
        """As a share."""
        return f"{self.mean:.0%} [{self.low:.0%}, {self.high:.0%}]"


@dataclass(frozen=True)
class Summary:
    """One method over all prompts.

    Args:
        score: the judge's metric, averaged over the videos of an answer.
        gain: difference to the raw prompt, paired by prompt.
        share: of the search's gain that this method has; ``None`` without a search, or one that gains for sure.
        videos_per_prompt: made to answer once, the answer's own among them.
        seconds_per_prompt: to rewrite, all prompts together, and to make those videos, in full batches; what a search
            takes to judge and to propose is not in it. ``None`` if no video had to be made.
        intent_kept: mean share of what the prompt asks for that the rewrite still says.
        intent_passed: share of rewrites that pass the gate.
        unchanged: share of rewrites that are the raw prompt: the method fell back to it, or left it alone.
        mean_words: of the rewrites.
        variety: distinct words among 100 that the rewrites add; ``None`` where they add fewer.
    """

    method: str
    score: Estimate
    gain: Estimate
    share: Estimate | None
    videos_per_prompt: float
    seconds_per_prompt: float | None
    intent_kept: float
    intent_passed: float
    unchanged: float
    mean_words: float
    variety: float | None


@dataclass(frozen=True)
class Difference:
    """How much better one method scores than another, paired by prompt."""

    method: str
    against: str
    score: Estimate


@dataclass(frozen=True)
class Round:
    """Where the search was after a round of it, and what the same number of raw renders gives each prompt.

    Args:
        number: 0 is before the first proposals.
        videos_per_prompt: the search's so far and one to answer.
        search: score of its champions.
        best_of_n: score of the videos chosen from as many raw renders.
        over_best_of_n: paired difference of the two.
        over_stage1: paired difference to the stage-1 prompts it started from, which take one video.
    """

    number: int
    videos_per_prompt: float
    search: Estimate
    best_of_n: Estimate
    over_best_of_n: Estimate
    over_stage1: Estimate


@dataclass(frozen=True)
class Point:
    """Best of so many raw renders."""

    videos_per_prompt: float
    score: Estimate


@dataclass(frozen=True)
class Report:
    """All of an evaluation's numbers.

    Args:
        metric: the judge's score that is compared.
        num_prompts: compared.
        unjudged: ids of prompts that are left out, because the judge failed on every video of some answer.
        seconds_per_video: to render it, in full batches.
        methods: one after another.
        differences: between chosen pairs of methods.
        rounds: of the search.
        best_of_n: the score of 1, 2, ... raw renders a prompt, no prompt more than its search made.
    """

    metric: str
    num_prompts: int
    unjudged: list[str]
    seconds_per_video: float | None
    methods: list[Summary]
    differences: list[Difference]
    rounds: list[Round] = field(default_factory=list)
    best_of_n: list[Point] = field(default_factory=list)


def summarise(
    results: Sequence[Result],
    methods: Mapping[str, Method],
    behind: Mapping[str, Method],
    prompts: Sequence[Prompt],
    gate: IntentGate,
    metric: str,
    compare: Sequence[tuple[str, str]] = (),
    seconds_per_video: float | None = None,
) -> Report:
    """Average over prompts, compare with the raw prompt, with the search and as asked.

    Args:
        results: of all methods.
        methods: to summarise; ``raw`` is one of them.
        behind: the rounds of a search and its budgets of raw renders.
        prompts: what was asked, in the order of the methods' answers.
        gate: measures how much of the user's intent is kept.
        metric: to compare.
        compare: pairs of methods; the second is subtracted from the first.
        seconds_per_video: to render it.

    Raises:
        ValueError: if the judge does not give the metric, or there are no two prompts it judged all answers to.
    """
    contest = {**methods, **behind}
    scores = mean_scores(results, contest, prompts, metric)
    judged = np.logical_and.reduce([np.isfinite(values) for values in scores.values()])
    unjudged = [prompt.id for prompt, whole in zip(prompts, judged, strict=True) if not whole]
    if unjudged:
        logger.warning("%d of %d prompts are left out: the judge failed on them.", len(unjudged), len(prompts))
    if judged.sum() < 2:
        raise ValueError(f"the judge failed on all but {judged.sum()} of {len(prompts)} prompts; look at its verdicts.")
    scores = {name: values[judged] for name, values in scores.items()}
    summaries = []
    for name, method in methods.items():
        texts = [(p.prompt, a.text) for p, a, whole in zip(prompts, method.answers, judged, strict=True) if whole]
        reports = gate.check(texts)
        videos = videos_per_prompt(method, judged)
        gain = scores[name] - scores[RAW]
        summaries.append(
            Summary(
                method=name,
                score=estimate(scores[name]),
                gain=estimate(gain),
                share=ratio(gain, scores[SEARCH] - scores[RAW]) if SEARCH in methods else None,
                videos_per_prompt=videos,
                seconds_per_prompt=None if seconds_per_video is None else method.seconds + videos * seconds_per_video,
                intent_kept=mean([report.kept_share for report in reports]),
                intent_passed=mean([float(report.passed) for report in reports]),
                unchanged=mean([float(raw == text) for raw, text in texts]),
                mean_words=mean([len(text.split()) for _, text in texts]),
                variety=variety(texts),
            )
        )
    return Report(
        metric=metric,
        num_prompts=int(judged.sum()),
        unjudged=unjudged,
        seconds_per_video=seconds_per_video,
        methods=summaries,
        differences=[Difference(one, other, estimate(scores[one] - scores[other])) for one, other in compare],
        rounds=[
            Round(
                number=number,
                videos_per_prompt=videos_per_prompt(champions, judged),
                search=estimate(scores[f"{SEARCH}/{number}"]),
                best_of_n=estimate(scores[f"{BEST_OF_N}/{number}"]),
                over_best_of_n=estimate(scores[f"{SEARCH}/{number}"] - scores[f"{BEST_OF_N}/{number}"]),
                over_stage1=estimate(scores[f"{SEARCH}/{number}"] - scores[STAGE1]),
            )
            for number, champions in enumerate(_series(behind, f"{SEARCH}/", 0))
        ],
        best_of_n=[
            Point(videos_per_prompt(method, judged), estimate(scores[f"best_of_{n}"]))
            for n, method in enumerate(_series(behind, "best_of_", 1), 1)
        ],
    )


def mean_scores(
    results: Sequence[Result], methods: Mapping[str, Method], prompts: Sequence[Prompt], metric: str
) -> dict[str, NDArray[np.float64]]:
    """Average each method's scores of each prompt, over the videos the judge did not fail on.

    Returns:
        By method ``(P,)``; not a number where the judge failed on all videos of an answer.

    Raises:
        ValueError: if the judge does not give the metric.
    """
    by_answer: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.scores and metric not in result.scores:
            raise ValueError(f"the judge gives no {metric!r}; it gives {', '.join(result.scores)}.")
        if result.scores:
            by_answer.setdefault((result.method, result.prompt_id), []).append(result.scores[metric])
    return {
        name: np.array([mean(by_answer.get((name, prompt.id), [np.nan])) for prompt in prompts]) for name in methods
    }


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Bootstrap the mean of ``(P,)``: 95 %, percentile method, the same resamples for every call of one length."""
    found = bootstrap(
        (values,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(float(values.mean()), float(found.low), float(found.high))


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> Estimate | None:
    """Bootstrap the ratio of the means of two ``(P,)``, whose prompts are drawn together: 95 %, percentile method.

    Returns:
        ``None`` if the denominator is not positive in every resample: then a share of it says nothing.
    """
    draws = np.random.default_rng(0).integers(len(whole), size=(NUM_RESAMPLES, len(whole)))
    wholes = whole[draws].mean(axis=1)
    if wholes.min() <= 0:
        return None
    low, high = np.quantile(part[draws].mean(axis=1) / wholes, (0.025, 0.975))
    return Estimate(float(part.mean() / whole.mean()), float(low), float(high))


def videos_per_prompt(method: Method, judged: NDArray[np.bool_]) -> float:
    """Mean cost over the prompts that count."""
    return float(np.mean(np.array(method.num_videos)[judged]))


def _series(methods: Mapping[str, Method], prefix: str, start: int) -> Iterator[Method]:
    """Methods named with a prefix and a count, from its start on."""
    while f"{prefix}{start}" in methods:
        yield methods[f"{prefix}{start}"]
        start += 1
