"""Methods side by side on held-out prompts: paired, with intervals, at a stated cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from collect import tracking
from collect.intent import IntentGate
from collect.prompts import read_prompts
from collect.protocols import Generator, Proposer, Rewriter, Verifier
from collect.run import PURPOSE, by_name, check_rewriter, search_settings
from collect.sspo import mean, optimise
from collect.store import Store, Take
from collect.studio import Studio, seeds_of
from data_modules.records import Prompt, Result, content_id, write_records

RAW = "raw"
SEARCH = "sspo"
NUM_RESAMPLES = 10_000
NUM_VIDEOS_LOGGED = 4  # prompts whose videos are shown


@dataclass(frozen=True)
class Search:
    """Settings of the method ``sspo``: the loop of collect run, on the held-out prompts.

    Args:
        verifiers: judge the search's videos; they should not be the judge of the evaluation.
        proposer: rewrites the best text so far after each round.
        rewriter: writes the stage-1 prompt that competes from the start.
        rounds: of proposals, after the start.
        num_seeds: videos per text; other seeds than the evaluation's.
        patience: rounds without a better text after which a prompt's search stops.
    """

    verifiers: list[Verifier]
    proposer: Proposer
    rewriter: Rewriter | None = None
    rounds: int = 3
    num_seeds: int = 2
    patience: int = 2


@dataclass(frozen=True)
class Answer:
    """What a method sends to the video model for one prompt, and how many videos finding it took."""

    text: str
    num_videos: int = 0


@dataclass(frozen=True)
class Summary:
    """One method over all prompts. Intervals are 95 %, by bootstrap over prompts.

    Args:
        score: mean of the judge's metric over prompts and seeds.
        interval: of the score.
        gain: mean difference to the raw prompt, paired by prompt and seed.
        gain_interval: of the gain.
        videos_per_prompt: videos made to answer once: those of the search, and the answer itself.
        intent_kept: mean share of what the prompt asks for that the rewrite still says.
        intent_passed: share of rewrites that pass the gate.
        unchanged: share of rewrites that are the raw prompt.
        mean_words: of the rewrites.
    """

    method: str
    score: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    videos_per_prompt: float
    intent_kept: float
    intent_passed: float
    unchanged: float
    mean_words: float


def evaluate(
    prompts: Path,
    output: Path,
    generator: Generator,
    judge: Verifier,
    gate: IntentGate,
    methods: dict[str, Rewriter | None],
    search: Search | None = None,
    metric: str = "alignment",
    num_seeds: int = 4,
    limit: int | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Compare methods on held-out prompts.

    Every method's text is rendered with the same seeds, which no search has seen, and judged against the raw prompt.
    A killed evaluation goes on where it stopped when it is started again.

    Args:
        prompts: held-out prompts; see collect run for the kinds of file.
        output: folder of ``results.jsonl``, ``summary.json``, ``trajectories.sqlite`` and ``videos``.
        generator: makes the videos.
        judge: judges the videos; it should not be a verifier that texts were selected or mined with.
        gate: measures how much of the user's intent is kept.
        methods: rewriters by name; ``raw`` must be among them, as null.
        search: adds the method ``sspo``.
        metric: the judge's score to compare.
        num_seeds: videos per text and prompt.
        limit: evaluate only so many prompts, from the start of the file.
        logger: a W&B run to log to.
    """
    asked = read_prompts(prompts, limit)
    if len(asked) < 2:
        raise ValueError(f"{prompts} holds {len(asked)} prompt; intervals need at least two.")
    if methods.get(RAW, judge) is not None:
        raise ValueError(f"methods must have {RAW!r} as null, to compare with; got {', '.join(methods) or 'none'}.")
    if SEARCH in methods:
        raise ValueError(f"the method name {SEARCH!r} is that of the search; call the rewriter something else.")
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}.")
    settings: dict[str, Any] = {
        "prompts": content_id(*(prompt.id for prompt in asked)),
        "generator": generator.fingerprint,
        "judge": judge.name,
        "num_seeds": num_seeds,
    }
    if search is not None:
        settings["search"] = search_settings(asked, generator, **vars(search))
    with Store(output, settings) as store, tracking.start(logger, "evaluate") as tracked:
        answers = {name: ask(rewriter, asked) for name, rewriter in methods.items()}
        if search is not None:
            answers[SEARCH] = find(search, asked, store, generator)
        results = render_and_judge(answers, asked, store, generator, judge, num_seeds)
        write_records(output / "results.jsonl", results)
        summaries = summarise(results, answers, asked, metric, gate)
        report = {**settings, "metric": metric, "num_prompts": len(asked)}
        report["methods"] = [asdict(summary) for summary in summaries]
        (output / "summary.json").write_text(json.dumps(report, indent=2) + "\n")
        store.finish()
        show(summaries, metric, len(asked), num_seeds)
        log(tracked, summaries, results, output, metric)


def ask(rewriter: Rewriter | None, prompts: Sequence[Prompt]) -> list[Answer]:
    """Rewrite in one pass."""
    texts = [prompt.prompt for prompt in prompts] if rewriter is None else rewriter.rewrite(prompts)
    return [Answer(text) for text in texts]


def find(search: Search, prompts: Sequence[Prompt], store: Store, generator: Generator) -> list[Answer]:
    """Rewrite by searching each prompt."""
    studio = Studio(store, generator, by_name(search.verifiers), search.num_seeds, PURPOSE)
    check_rewriter(store, prompts, search.rewriter)
    store.enter(prompts)
    *_, searches = optimise(
        prompts, studio.assess, store, search.rewriter, search.proposer, search.rounds, search.patience
    )
    return [Answer(s.champion.text, len(s.candidates) * search.num_seeds) for s in searches]


def render_and_judge(
    answers: Mapping[str, Sequence[Answer]],
    prompts: Sequence[Prompt],
    store: Store,
    generator: Generator,
    judge: Verifier,
    num_seeds: int,
) -> list[Result]:
    """Render every answer with the seeds of its prompt, which all methods share; equal answers share their videos."""
    key = f"judge:{judge.name}"  # a verifier of the search may have the same name
    studio = Studio(store, generator, {key: judge}, num_seeds, purpose="evaluate")
    entries = [
        (method, answer, Take(prompt, answer.text, seed))
        for method, texts in answers.items()
        for prompt, answer in zip(prompts, texts, strict=True)
        for seed in seeds_of(prompt, num_seeds, studio.purpose)
    ]
    verdicts = studio.judge([take for _, _, take in entries])
    return [
        Result(
            prompt_id=take.prompt.id,
            method=method,
            prompt=take.prompt.prompt,
            rewrite=answer.text,
            seed=take.seed,
            video=str(studio.video(take).path.relative_to(store.folder)),
            scores=verdict[key].scores,
        )
        for (method, answer, take), verdict in zip(entries, verdicts, strict=True)
    ]


def summarise(
    results: Sequence[Result],
    answers: Mapping[str, Sequence[Answer]],
    prompts: Sequence[Prompt],
    metric: str,
    gate: IntentGate,
) -> list[Summary]:
    """Average each method over prompts, and compare it with the raw prompt.

    Raises:
        ValueError: if the judge does not give the metric.
    """
    by_answer: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if metric not in result.scores:
            raise ValueError(f"the judge gives no {metric!r}; it gives {', '.join(result.scores)}.")
        by_answer.setdefault((result.method, result.prompt_id), []).append(result.scores[metric])
    scores = {method: np.array([mean(by_answer[method, prompt.id]) for prompt in prompts]) for method in answers}
    summaries = []
    for method, texts in answers.items():
        difference = scores[method] - scores[RAW]
        reports = gate.check([(prompt.prompt, answer.text) for prompt, answer in zip(prompts, texts, strict=True)])
        summaries.append(
            Summary(
                method=method,
                score=float(scores[method].mean()),
                interval=interval(scores[method]),
                gain=float(difference.mean()),
                gain_interval=interval(difference),
                videos_per_prompt=1 + mean([answer.num_videos for answer in texts]),
                intent_kept=mean([report.kept_share for report in reports]),
                intent_passed=mean([float(report.passed) for report in reports]),
                unchanged=mean([float(p.prompt == answer.text) for p, answer in zip(prompts, texts, strict=True)]),
                mean_words=mean([len(answer.text.split()) for answer in texts]),
            )
        )
    return summaries


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap the mean: 95 %, percentile method, the same resamples for every call of one length."""
    found = bootstrap(
        (values,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def show(summaries: Sequence[Summary], metric: str, num_prompts: int, num_seeds: int) -> None:
    """Print the closing table, in 80 columns."""
    table = Table(
        title=f"{metric} on {num_prompts} held-out prompts",
        caption=f"means over prompts and {num_seeds} seeds, with 95 % intervals",
    )
    for column in ("method", "score", "against raw", "videos", "intent", "words"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for s in summaries:
        gain = "" if s.method == RAW else f"{s.gain:+.3f} [{s.gain_interval[0]:.2f}, {s.gain_interval[1]:.2f}]"
        table.add_row(
            s.method,
            f"{s.score:.3f} [{s.interval[0]:.2f}, {s.interval[1]:.2f}]",
            gain,
            f"{s.videos_per_prompt:.1f}",
            f"{s.intent_kept:.0%}",
            f"{s.mean_words:.0f}",
        )
    Console().print(table)


def log(
    tracked: tracking.Run, summaries: Sequence[Summary], results: Sequence[Result], output: Path, metric: str
) -> None:
    """Log every number of the closing table, and each answer with its first video."""
    for summary in summaries:
        values = {name: value for name, value in asdict(summary).items() if isinstance(value, float)}
        values["score_low"], values["score_high"] = summary.interval
        values["gain_low"], values["gain_high"] = summary.gain_interval
        tracked.log({f"eval/{summary.method}/{name}": value for name, value in values.items()})
    firsts = {(result.method, result.prompt_id): result for result in reversed(results)}
    shown = list(dict.fromkeys(result.prompt_id for result in results))[:NUM_VIDEOS_LOGGED]
    rows: list[list[tracking.Cell]] = [
        [r.prompt, r.method, r.rewrite, r.scores[metric], output / r.video if r.prompt_id in shown else None]
        for r in sorted(firsts.values(), key=lambda r: (r.prompt_id, r.method))
    ]
    tracked.log_table("eval/answers", ["prompt", "method", "rewrite", metric, "video"], rows)
