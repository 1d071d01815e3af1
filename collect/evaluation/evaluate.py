"""Methods side by side on held-out prompts: paired, with intervals, at a stated cost."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NotRequired

from lightning.pytorch.loggers import WandbLogger
from pydantic import with_config
from typing_extensions import TypedDict

from collect import tracking
from collect.evaluation.answers import BestOfN, Method, ask, earlier_methods, read_search
from collect.evaluation.figure import FIGURE, plot
from collect.evaluation.logs import log
from collect.evaluation.numbers import BEST_OF_N, RAW, SEARCH, STAGE1, summarise
from collect.evaluation.tables import show
from collect.intent.gate import IntentGate
from collect.prompts import read_prompts
from collect.protocols import Generator, RenderRequest, Rewriter, Verifier
from collect.search.renderer import Renderer, seeds_of
from collect.search.retried import RetriedRewriter
from collect.search.run import by_name
from collect.search.store import Sample, Store
from data_modules.records import Prompt, Result, content_id, write_records
from data_modules.schema import OPEN, parse_json
from data_modules.text import read_text

PURPOSE = "evaluate"  # of the seeds: no search draws them


def evaluate(
    prompts: Path,
    output: Path,
    generator: Generator,
    judge: Verifier,
    gate: IntentGate,
    methods: dict[str, Rewriter | None],
    search: Path | None = None,
    verifiers: list[Verifier] | None = None,
    compare: tuple[tuple[str, str], ...] = (),
    earlier: Path | None = None,
    metric: str = "alignment",
    num_seeds: int = 4,
    limit: int | None = None,
    videos: Path | None = None,
    backends: dict[str, Any] | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Compare methods on held-out prompts.

    Every method's text is rendered with the same seeds, which no search has seen, and judged against the raw prompt.
    A search adds two methods of equal cost, prompt by prompt. The answer of ``sspo`` is a text, the search's champion.
    The answer of ``best_of_n`` is a video: the raw prompt is rendered with as many seeds as ``sspo`` makes videos, the
    search's verifiers choose one of them, and the judge's score of that one counts.
    A killed evaluation resumes where it stopped when it is started again.

    Args:
        prompts: held-out prompts; see collect run for the kinds of file.
        output: folder of ``results.jsonl``, ``summary.json``, ``trajectories.sqlite``, ``videos`` and, with a search,
            ``score_by_videos.png``.
        generator: makes the videos.
        judge: judges the videos; it should not be a verifier that texts were selected or mined with.
        gate: measures how much of the user's intent is kept.
        methods: rewriters by name; ``raw`` must be among them, as null.
        search: folder that collect run wrote for these prompts, with the same generator.
        verifiers: those of the search; they choose the videos of ``best_of_n``.
        compare: pairs of methods; the second is subtracted from the first.
        earlier: folder of an earlier evaluation of these prompts; what its rewriters answered takes part as
            ``NAME before``, where it is not what the rewriter of that name answers now.
        metric: the judge's score to compare.
        num_seeds: videos per text and prompt.
        limit: evaluate only so many prompts, from the start of the file.
        videos: folder of the videos, which may be the search's, so that neither renders what the other did; by default
            ``videos`` in the output folder.
        backends: what judge and verifiers are, as JSON, so that a change is noticed when a run in it is resumed;
            the command line fills it in.
        logger: a W&B run to log to.
    """
    asked = read_prompts(prompts, limit)
    if len(asked) < 2:
        raise ValueError(f"{prompts} holds {len(asked)} prompt; intervals need at least two.")
    if methods.get(RAW, judge) is not None:
        raise ValueError(f"methods must have {RAW!r} as null, to compare with; got {', '.join(methods) or 'none'}.")
    for name in (SEARCH, BEST_OF_N):
        if name in methods:
            raise ValueError(f"the method name {name!r} is that of the search; call the rewriter something else.")
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}.")
    if (search is None) != (not verifiers):
        raise ValueError("search and verifiers go together: give the search's folder and its verifiers, or neither.")
    known = [*methods, *((SEARCH, BEST_OF_N) if search else ())]
    unknown = {name for pair in compare for name in pair if name not in known}
    if unknown:
        raise ValueError(f"compare names {', '.join(sorted(unknown))}; the methods are {', '.join(known)}.")
    before = earlier_methods(earlier, asked, [name for name in methods if name != RAW]) if earlier else {}
    found = read_search(search, asked, generator, verifiers or []) if search else None
    settings: dict[str, Any] = {
        "prompts": content_id(*(prompt.id for prompt in asked)),
        "generator": generator.fingerprint,
        "judge": judge.name,
        "num_seeds": num_seeds,
    }
    if backends is not None:
        # Neither methods nor gate, which are asked again; the search's apart, for one may be added later.
        settings["backends"] = {"judge": backends["judge"]}
        if search:
            settings["search"] = {"verifiers": backends["verifiers"]}
    watch = Stopwatch(generator)
    summary = output / "summary.json"
    with Store(output, settings, videos) as store, tracking.start(logger, "evaluate") as tracked:
        table = {
            name: ask(None if rewriter is None else RetriedRewriter(rewriter, store), asked)
            for name, rewriter in methods.items()
        }
        for name, method in before.items():
            if method.answers != table[name].answers:
                table[f"{name} before"] = method
                compare += ((name, f"{name} before"),)
        behind: dict[str, Method] = {}  # what the rounds and the curve are made of
        if found:
            rounds = [found.champions(number) for number in range(found.last_round + 1)]
            renders = BestOfN(
                asked, rounds[-1].num_videos, Renderer(store, watch, by_name(verifiers or []), 1, PURPOSE)
            )
            table[SEARCH] = rounds[-1]
            table[BEST_OF_N] = renders.choose(rounds[-1].num_videos)
            behind[STAGE1] = found.rewrites()
            for number, champions in enumerate(rounds):
                behind[f"{SEARCH}/{number}"] = champions
                behind[f"{BEST_OF_N}/{number}"] = renders.choose(champions.num_videos)
            for n, budgets in enumerate(renders.budgets(), 1):
                behind[f"best_of_{n}"] = renders.choose(budgets)
        results = render_and_judge(table | behind, asked, store, watch, judge, num_seeds)
        write_records(output / "results.jsonl", results)
        report = summarise(results, table, behind, asked, gate, metric, compare, watch.seconds_per_video(summary))
        summary.write_text(json.dumps({**settings, **asdict(report)}, indent=2) + "\n")
        store.finish()
        if report.rounds:
            plot(report, output / FIGURE)
        show(report)
        log(tracked, report, results, output)


@with_config(OPEN)
class Timed(TypedDict):
    """What is read of an earlier summary."""

    seconds_per_video: NotRequired[float | None]


class Stopwatch:
    """A generator that counts the videos it makes and the seconds they take."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.fingerprint = generator.fingerprint
        self.num_videos = 0
        self.seconds = 0.0

    @property
    def batch_size(self) -> int:
        """The generator's own, which is lowered where memory runs out."""
        return self.generator.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.generator.batch_size = size

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        """Write one video file per request."""
        start = perf_counter()
        self.generator.generate(requests)
        self.seconds += perf_counter() - start
        self.num_videos += len(requests)

    def seconds_per_video(self, summary: Path) -> float | None:
        """The mean so far; where there was nothing to render, that of the evaluation that wrote this summary."""
        if self.num_videos:
            return self.seconds / self.num_videos
        if not summary.is_file():
            return None
        text = read_text(summary, "the summary of an evaluation")
        return parse_json(text, Timed, str(summary), "remove it, it is written again.").get("seconds_per_video")


def render_and_judge(
    methods: Mapping[str, Method],
    prompts: Sequence[Prompt],
    store: Store,
    generator: Generator,
    judge: Verifier,
    num_seeds: int,
) -> list[Result]:
    """Render every answer with the seeds of its prompt, which all methods share; equal answers share their videos."""
    key = f"judge:{judge.name}"  # a verifier of the search may have the same name
    renderer = Renderer(store, generator, {key: judge}, num_seeds, PURPOSE)
    entries = [
        (name, Sample(prompt, answer.text, seed))
        for name, method in methods.items()
        for prompt, answer in zip(prompts, method.answers, strict=True)
        for seed in ([answer.seed] if answer.seed is not None else seeds_of(prompt, num_seeds, PURPOSE))
    ]
    verdicts = renderer.judge([sample for _, sample in entries])
    return [
        Result(
            prompt_id=sample.prompt.id,
            method=name,
            prompt=sample.prompt.prompt,
            rewrite=sample.text,
            seed=sample.seed,
            video=os.path.relpath(renderer.video(sample).path, store.folder),
            scores=verdict[key].scores,
        )
        for (name, sample), verdict in zip(entries, verdicts, strict=True)
    ]
