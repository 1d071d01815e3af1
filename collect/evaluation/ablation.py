"""What each part of stage 1 adds: parts switched on one after another, side by side on held-out prompts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from collect.console import PlainConsole
from collect.evaluation.choice import clustered
from collect.evaluation.evaluate import evaluate
from data_modules.records import Result, read_records

# VBench totals on LaVie (RAPO++, Tables 7 and 10, https://arxiv.org/abs/2510.20206). There a part that is missing is
# replaced: the graph by modifiers that GPT-4 names, the choice by a coin.
PAPER = {"raw": 80.89, "graph": 80.37, "refactor": 79.75, "graph_refactor": 81.58, "choice": 82.38}


@dataclass(frozen=True)
class Row:
    """One method. Intervals are 95 %, by bootstrap over prompts.

    Args:
        method: its name.
        score: mean of the judge's metric over prompts and seeds.
        interval: of the score.
        gain: mean difference to the raw prompt, paired by prompt and seed.
        gain_interval: of the gain.
        step: mean difference to the method named before, paired likewise; ``None`` for the first.
        step_interval: of the step.
        paper: the paper's figure for these parts, on another scale, model and benchmark.
    """

    method: str
    score: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    step: float | None
    step_interval: tuple[float, float] | None
    paper: float | None


def ablation(output: Path, metric: str = "alignment", **kwargs: Any) -> None:
    """Compare stage 1 without some of its parts, and print the paper's table beside it.

    Args:
        output: folder of ``ablation.json`` and of what collect evaluate writes.
        metric: the judge's score to compare.
        **kwargs: see collect evaluate; methods named raw, graph, refactor, graph_refactor and choice have a figure in
            the paper.
    """
    evaluate(output=output, metric=metric, **kwargs)
    rows = compare(read_records(output / "results.jsonl", Result), metric)
    (output / "ablation.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    show(rows, metric)


def compare(results: Sequence[Result], metric: str) -> list[Row]:
    """Average each method, and subtract the raw prompt's scores and those of the method before.

    Args:
        results: of all methods, with the same prompts and seeds for each.
        metric: the judge's score.
    """
    by_method: dict[str, dict[tuple[str, int], float]] = {}
    for result in results:
        by_method.setdefault(result.method, {})[result.prompt_id, result.seed] = result.scores[metric]
    keys = list(by_method["raw"])
    prompts = [prompt_id for prompt_id, _ in keys]
    rows = []
    before: np.ndarray | None = None
    raw = np.array([by_method["raw"][key] for key in keys])
    for method, scores in by_method.items():
        values = np.array([scores[key] for key in keys])
        step = None if before is None else values - before
        rows.append(
            Row(
                method=method,
                score=float(values.mean()),
                interval=clustered(values, prompts),
                gain=float((values - raw).mean()),
                gain_interval=clustered(values - raw, prompts),
                step=None if step is None else float(step.mean()),
                step_interval=None if step is None else clustered(step, prompts),
                paper=PAPER.get(method),
            )
        )
        before = values
    return rows


def show(rows: Sequence[Row], metric: str) -> None:
    """Print the rows, in 80 columns."""
    table = Table(
        title="parts of stage 1",
        caption=f"{metric}, means with 95 % intervals over prompts; the paper's column is the VBench total of another "
        "video model (RAPO++, Tables 7 and 10)",
    )
    for column in ("method", "score", "against raw", "against the row above", "paper's"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        table.add_row(
            row.method,
            f"{row.score:.3f} [{row.interval[0]:.2f}, {row.interval[1]:.2f}]",
            "" if row.method == "raw" else _signed(row.gain, row.gain_interval),
            "" if row.step is None or row.step_interval is None else _signed(row.step, row.step_interval),
            "" if row.paper is None else f"{row.paper:.2f}",
        )
    PlainConsole().print(table)


def _signed(value: float, interval: tuple[float, float]) -> str:
    return f"{value:+.3f} [{interval[0]:.2f}, {interval[1]:.2f}]"
