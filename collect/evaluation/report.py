"""An evaluation's numbers: means with intervals, paired by prompt, as tables, a figure and a W&B run. P prompts."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_type_hints

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from collect import tracking
from collect.evaluation.answers import Method
from collect.intent.gate import IntentGate
from collect.search.sspo import mean
from data_modules.records import Prompt, Result

RAW = "raw"
SEARCH = "sspo"
BEST_OF_N = "best_of_n"
STAGE1 = "sspo/stage1"  # what the search started from; sspo/ROUND and best_of_n/ROUND are its course
FIGURE = "score_by_videos.png"
WIDTH = 100  # columns of a terminal
NUM_RESAMPLES = 10_000
NUM_VIDEOS_LOGGED = 4  # prompts whose videos are shown

logger = logging.getLogger(__name__)


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
        unchanged: share of rewrites that are the raw prompt.
        mean_words: of the rewrites.
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


def show(report: Report) -> None:
    """Print the closing tables, in full where nobody watches the width."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(_methods(report))
    if report.differences:
        console.print(_differences(report))
    if report.rounds:
        console.print(_rounds(report))


def _methods(report: Report) -> Table:
    table = Table(
        title=f"{report.metric} on {report.num_prompts} held-out prompts",
        caption="means over prompts with 95 % intervals; videos and seconds per prompt",
    )
    for column in ("method", "score", "against raw", "videos", "s", "intent", "words"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for s in report.methods:
        table.add_row(
            s.method,
            str(s.score),
            "" if s.method == RAW else f"{s.gain.mean:+.3f} [{s.gain.low:.2f}, {s.gain.high:.2f}]",
            f"{s.videos_per_prompt:.1f}",
            "" if s.seconds_per_prompt is None else f"{s.seconds_per_prompt:.1f}",
            f"{s.intent_kept:.0%}",
            f"{s.mean_words:.0f}",
        )
    return table


def _differences(report: Report) -> Table:
    table = Table("paired by prompt", "estimate", title=f"differences in {report.metric}")
    for difference in report.differences:
        table.add_row(f"{difference.method} - {difference.against}", difference.score.signed)
    for summary in report.methods:
        if summary.share and summary.method not in (RAW, SEARCH):
            table.add_row(f"share of {SEARCH}'s gain that {summary.method} has", summary.share.percent)
    return table


def _rounds(report: Report) -> Table:
    table = Table(title="the search after each round, and raw renders at its cost")
    for column in ("round", "videos", SEARCH, BEST_OF_N, f"{SEARCH} - {BEST_OF_N}", f"{SEARCH} - stage 1"):
        table.add_column(column, justify="right")
    for r in report.rounds:
        table.add_row(
            str(r.number),
            f"{r.videos_per_prompt:.1f}",
            f"{r.search.mean:.3f}",
            f"{r.best_of_n.mean:.3f}",
            r.over_best_of_n.signed,
            r.over_stage1.signed,
        )
    return table


def plot(report: Report, path: Path) -> None:
    """Draw score against videos per prompt: the search by rounds, best of n raw renders, and one-pass methods."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set(xlabel="videos per prompt, the answer's own among them", ylabel=f"{report.metric} by the judge")
    courses = {
        f"{SEARCH}, after rounds 0 to {len(report.rounds) - 1}": [
            Point(r.videos_per_prompt, r.search) for r in report.rounds
        ],
        "best of n raw renders": report.best_of_n,
    }
    for label, points in courses.items():
        videos = [point.videos_per_prompt for point in points]
        (line,) = axes.plot(videos, [point.score.mean for point in points], marker=".", label=label)
        low, high = [point.score.low for point in points], [point.score.high for point in points]
        axes.fill_between(videos, low, high, alpha=0.15, color=line.get_color())
    singles = [summary for summary in report.methods if summary.method not in (RAW, SEARCH, BEST_OF_N)]
    for index, summary in enumerate(singles):
        # Side by side, since all of them take one video.
        axes.errorbar(
            1.03 ** (index + 1),
            summary.score.mean,
            [[summary.score.mean - summary.score.low], [summary.score.high - summary.score.mean]],
            fmt="o",
            markersize=4,
            capsize=2,
            color=f"C{index + len(courses)}",
            label=f"{summary.method}, one video",
        )
    ticks = [
        n
        for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100)
        if n <= max(p.videos_per_prompt for p in report.best_of_n)
    ]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=150)


def log(tracked: tracking.Run, report: Report, results: Sequence[Result], output: Path) -> None:
    """Log every number of the closing tables, the figure, and each answer with its first video."""
    for summary in report.methods:
        numbers = {key: value for key, value in _flat(summary).items() if isinstance(value, float)}
        tracked.log({f"eval/{summary.method}/{key}": value for key, value in numbers.items()})
    tables: dict[str, Sequence[Summary | Difference | Round]] = {
        "methods": report.methods,
        "differences": report.differences,
        "rounds": report.rounds,
    }
    for name, entries in tables.items():
        rows = [_flat(entry) for entry in entries]
        if rows:
            tracked.log_table(f"eval/{name}", list(rows[0]), [list(row.values()) for row in rows])
    if report.rounds:
        tracked.log_image("eval/score_by_videos", output / FIGURE)
    table = {summary.method for summary in report.methods}
    firsts = {(r.method, r.prompt_id): r for r in reversed(results) if r.method in table}
    shown = list(dict.fromkeys(result.prompt_id for result in results))[:NUM_VIDEOS_LOGGED]
    answers: list[list[tracking.Cell]] = [
        [
            *(r.prompt, r.method, r.rewrite, r.scores.get(report.metric)),
            output / r.video if r.prompt_id in shown else None,
        ]
        for r in sorted(firsts.values(), key=lambda r: (r.prompt_id, r.method))
    ]
    tracked.log_table("eval/answers", ["prompt", "method", "rewrite", report.metric, "video"], answers)


def _flat(entry: Summary | Difference | Round) -> dict[str, tracking.Cell]:
    """Spread every estimate over three columns; one that is missing leaves them empty."""
    row: dict[str, tracking.Cell] = {}
    for name, kind in get_type_hints(type(entry)).items():
        value = getattr(entry, name)
        if kind in (Estimate, Estimate | None):
            low, high = (value.low, value.high) if value else (None, None)
            row |= {name: value.mean if value else None, f"{name}_low": low, f"{name}_high": high}
        else:
            row[name] = value
    return row


def _series(methods: Mapping[str, Method], prefix: str, start: int) -> Iterator[Method]:
    """Methods named with a prefix and a count, from its start on."""
    while f"{prefix}{start}" in methods:
        yield methods[f"{prefix}{start}"]
        start += 1
