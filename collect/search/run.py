"""Stage 2 from the command line: search prompts, keep every video and verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from collect import tracking
from collect.console import PlainConsole
from collect.prompts import read_prompts
from collect.protocols import Generator, Proposer, Rewriter, Verifier, Workers
from collect.search.renderer import Renderer, seeds_of
from collect.search.retried import RetriedProposer, RetriedRewriter
from collect.search.schema import DATABASE
from collect.search.sspo import Trajectory, mean, optimise
from collect.search.store import Sample, Store
from data_modules.records import Prompt, content_id
from data_modules.schema import write_json

PURPOSE = "collect"  # of the seeds: evaluation draws others
NUM_VIDEOS_LOGGED = 8  # prompts whose videos are shown
NUM_REWRITES_CHECKED = 16

_FAILED = {"failed_texts": "texts could not be rendered or judged", "given_up": "prompts are given up"}


def run(
    prompts: Path,
    output: Path,
    generator: Generator,
    verifiers: list[Verifier],
    rewriter: Rewriter | None = None,
    proposer: Proposer | None = None,
    rounds: int = 3,
    num_seeds: int = 2,
    patience: int = 2,
    budget: int | None = None,
    backtrack: bool = True,
    alternatives: dict[str, Rewriter] | None = None,
    limit: int | None = None,
    time_limit: float | None = None,
    videos: Path | None = None,
    workers: Workers | None = None,
    backends: dict[str, Any] | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Search the best wording of every prompt by rendering and judging candidates.

    A killed run resumes where it stopped when it is started again. A generator or verifier that fails, or returns what
    it should not, is tried once more; a text it still fails at is left out of the contest and counted. So is a rewriter
    or proposer; a prompt it still fails at goes without its text. Three failures in a row end the run.

    Args:
        prompts: ``.jsonl`` of prompt records, ``.txt`` with a prompt a line, or ``.csv`` with a column ``captions``
            or ``prompt`` and perhaps ``phys_law`` or ``task``.
        output: folder of ``trajectories.sqlite``, ``videos`` and, at the end, ``done.json``.
        generator: makes the videos.
        verifiers: judge them against the raw prompt.
        rewriter: writes the stage-1 prompt that competes with the raw one from the start.
        proposer: rewrites the best text so far after each round.
        rounds: of proposals, after the start.
        num_seeds: videos per text; the same seeds for all texts of a prompt.
        patience: rounds without a better text after which a prompt's search stops.
        budget: videos per prompt that may be made, a multiple of ``num_seeds``; by default only ``rounds`` bounds them.
        backtrack: propose from the best text so far, or else from the best of the last round.
        alternatives: further rewriters by name, whose answers compete from the start. A search ends once nothing can
            improve, so without them a stage-1 prompt that is drawn well is never compared with another wording, and
            stage 3 cannot learn which wording is better.
        limit: search only so many prompts, from the start of the file.
        time_limit: seconds the generator or a verifier may take over a batch; by default for ever.
        videos: folder of the videos, which several runs may share; by default ``videos`` in the output folder.
        workers: do the work of generator, verifiers, rewriter and proposer elsewhere; by default in this process.
        backends: what generator, verifiers, rewriter and proposer are, as JSON, so that a change is noticed when the
            run is resumed; the command line fills it in.
        logger: a W&B run to log to.
    """
    console = PlainConsole()
    asked = read_prompts(prompts, limit)
    settings = search_settings(
        asked, generator, verifiers, rewriter, proposer, rounds, num_seeds, patience, budget, backtrack, alternatives
    )
    if backends is not None:
        settings["backends"] = backends
    with Store(output, settings, videos) as store, tracking.start(logger, "collect") as tracked:
        renderer = Renderer(
            store,
            generator,
            by_name(verifiers),
            num_seeds,
            PURPOSE,
            # Workers keep the time themselves: they can end a call, where this process can only stop waiting for it.
            time_limit=None if workers else time_limit,
            num_workers=workers.num_workers if workers else 1,
        )
        if rewriter is not None:
            rewriter = RetriedRewriter(rewriter, store)
        if proposer is not None:
            proposer = RetriedProposer(proposer, store)
        alternatives = {name: RetriedRewriter(writer, store) for name, writer in (alternatives or {}).items()}
        check_rewriter(store, asked, rewriter)
        store.add_prompts(asked)
        texts = None if budget is None else budget // num_seeds
        searches: list[Trajectory] = []
        for number, searches in enumerate(
            optimise(
                asked, renderer.assess, store, rewriter, proposer, rounds, patience, texts, backtrack, alternatives
            )
        ):
            metrics = progress(searches, store, rewriter is not None)
            tracked.log(metrics, step=number)
            console.print(
                f"round {number}: mean score {metrics['collect/score']:.3f} "
                f"(raw {metrics['collect/raw_score']:.3f}), {metrics['collect/videos']:.0f} videos"
            )
        store.finish()
        write_json(output / "done.json", {**settings, **metrics})
        tracked.log_table("collect/trajectories", *table(searches, renderer))
        for name in ("failed_texts", "given_up"):
            if count := int(metrics[f"collect/{name}"]):
                console.print(f"{count} {_FAILED[name]}; the table failures of {store.folder / DATABASE} says why")
    console.print(f"{len(searches)} searches in {output}")


def search_settings(
    prompts: Sequence[Prompt],
    generator: Generator,
    verifiers: Sequence[Verifier],
    rewriter: Rewriter | None,
    proposer: Proposer | None,
    rounds: int,
    num_seeds: int,
    patience: int,
    budget: int | None = None,
    backtrack: bool = True,
    alternatives: Mapping[str, Rewriter] | None = None,
) -> dict[str, Any]:
    """Check a search's settings and name what decides its outcome.

    Raises:
        ValueError: naming the setting that is out of range or would be ignored.
    """
    for name, value, least in (("rounds", rounds, 0), ("num_seeds", num_seeds, 1), ("patience", patience, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if budget is not None and (budget < num_seeds or budget % num_seeds):
        raise ValueError(
            f"budget must be a multiple of num_seeds, which is {num_seeds} videos a text, got {budget}; the raw prompt "
            "costs the first of them."
        )
    if not verifiers:
        raise ValueError("verifiers is empty; a search needs at least one to judge its videos.")
    if proposer is None and rounds:
        raise ValueError(f"rounds is {rounds} but there is no proposer to make any; set rounds to 0 or add a proposer.")
    return {
        "prompts": content_id(*(prompt.id for prompt in prompts)),
        "generator": generator.fingerprint,
        "verifiers": list(by_name(verifiers)),
        "rewriter": type(rewriter).__name__ if rewriter else None,
        "proposer": type(proposer).__name__ if proposer else None,
        "rounds": rounds,
        "num_seeds": num_seeds,
        "patience": patience,
        "budget": budget,
        "backtrack": backtrack,
        "alternatives": {name: type(alternative).__name__ for name, alternative in (alternatives or {}).items()},
    }


def check_rewriter(store: Store, prompts: Sequence[Prompt], rewriter: Rewriter | None) -> None:
    """See that a store that is resumed was begun with the same rewriter, on its first few prompts.

    Raises:
        ValueError: if the rewriter writes something else now, for instance because it was trained again.
    """
    begun = store.load_round(0)
    if begun is None or rewriter is None:
        return
    known = list(prompts[:NUM_REWRITES_CHECKED])
    for prompt, text in zip(known, rewriter.rewrite(known), strict=True):
        if text not in [proposal.text for proposal in begun[prompt.id]]:
            raise ValueError(
                f"{store.folder} was begun with another rewriter: {prompt.prompt!r} becomes {text!r} now. "
                "Choose another folder or delete this one."
            )


def by_name(verifiers: Sequence[Verifier]) -> dict[str, Verifier]:
    """Index verifiers by name.

    Raises:
        ValueError: if two share a name, under which their verdicts are kept.
    """
    named = {verifier.name: verifier for verifier in verifiers}
    if len(named) < len(verifiers):
        raise ValueError(f"verifiers must have distinct names, got {', '.join(v.name for v in verifiers)}.")
    return named


def progress(searches: Sequence[Trajectory], store: Store, with_rewriter: bool) -> dict[str, float]:
    """Sum up all searches so far; a fallback is a prompt whose rewrite was refused or changed nothing.

    Raises:
        ValueError: if not one raw prompt could be judged.
    """
    alive = [search for search in searches if search.candidates]
    if not alive:
        why = next(failure.assessment.error for search in searches for failure in search.failures)
        raise ValueError(f"no raw prompt could be judged, so there is nothing to search from: {why}")
    metrics = {
        "collect/score": mean([search.champion.assessment.score for search in alive]),
        "collect/raw_score": mean([search.raw.assessment.score for search in alive]),
        "collect/raw_champions": mean([float(search.champion is search.raw) for search in alive]),
        "collect/videos": float(store.num_renders()),
        "collect/failed_calls": float(store.num_failures()),
        "collect/failed_texts": float(sum(len(search.failures) for search in searches)),
        "collect/given_up": float(len(searches) - len(alive)),
    }
    if with_rewriter:
        rewritten = sum(
            c.proposal.origin == "rewriter" for search in alive for c in (*search.candidates, *search.failures)
        )
        metrics["collect/fallbacks"] = float(len(alive) - rewritten)
    return metrics


def table(searches: Sequence[Trajectory], renderer: Renderer) -> tuple[list[str], list[list[tracking.Cell]]]:
    """List every candidate; the first few searches show their videos."""
    columns = ["prompt", "round", "origin", "text", "score", "critique", "champion", "video"]
    rows: list[list[tracking.Cell]] = []
    for index, search in enumerate(searches):
        seed = seeds_of(search.prompt, 1, PURPOSE)[0]
        for candidate in search.candidates:
            video = renderer.video(Sample(search.prompt, candidate.text, seed)).path
            rows.append(
                [
                    search.prompt.prompt,
                    candidate.round,
                    candidate.proposal.origin,
                    candidate.text,
                    candidate.assessment.score,
                    candidate.assessment.critique,
                    int(candidate is search.champion),
                    video if index < NUM_VIDEOS_LOGGED else None,
                ]
            )
    return columns, rows
