"""Stage 3's examples: from trajectories to (raw prompt, champion) records."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table

from collect import tracking
from collect.intent import IntentGate
from collect.sspo import Trajectory
from collect.store import read_trajectories
from data_modules.records import Rewrite, content_id, write_records
from data_modules.templates import refactor

MIN_RECORDS = 2  # one to train on, one to validate with

_ADVICE = {
    "prompts": "give collect run more prompts.",
    "rewritten": "the raw prompt won nearly every search: give collect run more rounds or a better proposer.",
    "gated": "the champions lost the user's intent: look at what the gate refuses.",
    "improved": "the champions are no better than the raw prompts on this metric: lower min_gain or search longer.",
}


def mine(
    trajectories: Path,
    output: Path,
    gate: IntentGate,
    metric: str,
    min_gain: float = 0.0,
    raw_share: float = 0.1,
    val_share: float = 0.1,
    logger: WandbLogger | None = None,
) -> None:
    """Turn finished searches into examples to tune a rewriter on.

    An example is a raw prompt and its champion, where the champion passed the intent gate and beat the raw prompt.
    A few prompts that were best as they were teach leaving good prompts alone.

    Args:
        trajectories: folder that collect run wrote.
        output: folder of ``train.jsonl``, ``val.jsonl`` and ``funnel.json``.
        gate: what a champion must pass.
        metric: what a champion must beat the raw prompt on, as ``verifier/score``.
        min_gain: by more than how much.
        raw_share: at most this share of the examples leaves a prompt alone.
        val_share: share of the source prompts held out for validation.
        logger: a W&B run to log to.
    """
    for name, share in (("raw_share", raw_share), ("val_share", val_share)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in [0, 1), got {share}.")
    searches, settings = read_trajectories(trajectories)
    known = sorted({name for search in searches for name in search.raw.assessment.scores})
    if metric not in known:
        raise ValueError(f"{trajectories} has no metric {metric!r} that ranks; it has {', '.join(known) or 'none'}.")
    rewritten = [search for search in searches if search.champion is not search.raw]
    reports = gate.check([(search.prompt.prompt, search.champion.text) for search in rewritten])
    gated = [search for search, report in zip(rewritten, reports, strict=True) if report.passed]
    improved = [search for search in gated if gain(search, metric) > min_gain]
    funnel = {"prompts": len(searches), "rewritten": len(rewritten), "gated": len(gated), "improved": len(improved)}
    for step, count in funnel.items():
        if count < MIN_RECORDS:
            steps = ", ".join(f"{name} {number}" for name, number in funnel.items())
            raise ValueError(
                f"{trajectories} leaves too few examples: {steps}. The step {step!r} left {count}, at least "
                f"{MIN_RECORDS} are needed; {_ADVICE[step]}"
            )
    kept = improved + already_good(searches, metric, quota=int(len(improved) * raw_share / (1 - raw_share)))
    train, val = split(kept, val_share)
    funnel |= {"left_alone": len(kept) - len(improved), "kept": len(kept), "train": len(train), "val": len(val)}
    write_records(output / "train.jsonl", [record(search) for search in train])
    write_records(output / "val.jsonl", [record(search) for search in val])
    provenance = {
        "trajectories": str(trajectories),
        "settings": settings,
        "metric": metric,
        "min_gain": min_gain,
        "raw_share": raw_share,
        "val_share": val_share,
    }
    (output / "funnel.json").write_text(json.dumps({**provenance, "funnel": funnel}, indent=2) + "\n")
    show(funnel)
    with tracking.start(logger, "mine") as tracked:
        tracked.log({f"mine/{step}": count for step, count in funnel.items()})
        rows: list[list[tracking.Cell]] = [
            [s.prompt.prompt, s.champion.text, gain(s, metric), s.champion.draft.origin] for s in kept
        ]
        tracked.log_table("mine/records", ["prompt", "champion", "gain", "origin"], rows)


def gain(search: Trajectory, metric: str) -> float:
    """By how much the champion beats the raw prompt."""
    return search.champion.assessment.scores[metric] - search.raw.assessment.scores[metric]


def already_good(searches: Sequence[Trajectory], metric: str, quota: int) -> list[Trajectory]:
    """Choose prompts that were best as they were and could not score higher, in the order of their ids."""
    good = [s for s in searches if s.champion is s.raw and s.raw.assessment.scores[metric] >= 1.0]
    return sorted(good, key=lambda search: search.prompt.id)[:quota]


def split(searches: Sequence[Trajectory], val_share: float) -> tuple[list[Trajectory], list[Trajectory]]:
    """Hold out a share of the source prompts, at least one; no text is in both splits."""
    texts = sorted({search.prompt.prompt for search in searches}, key=content_id)
    held_out = set(texts[: max(1, round(len(texts) * val_share))])
    train = [search for search in searches if search.prompt.prompt not in held_out]
    return train, [search for search in searches if search.prompt.prompt in held_out]


def record(search: Trajectory) -> Rewrite:
    """Write one example: the rewriter's own template in, the champion out."""
    prompt, text = search.prompt, search.champion.text
    return Rewrite(
        id=content_id("mined", prompt.id, text),
        prompt=refactor(prompt.prompt, prompt.task),
        completion=[{"role": "assistant", "content": text}],
    )


def show(funnel: dict[str, Any]) -> None:
    """Print how many searches each step left."""
    table = Table("step", "left", title="from searches to examples")
    for step, count in funnel.items():
        table.add_row(step.replace("_", " "), str(count))
    Console().print(table)
