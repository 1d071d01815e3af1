"""A benchmark's scores of several methods side by side, beside the figures of the literature."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from collect.console import PlainConsole
from collect.suites.published import Scores


def write_table(folder: Path, name: str, measured: Scores, published: Scores) -> None:
    """Write ``scores.json`` and ``scores.md``, and print the table.

    Args:
        folder: of the two files.
        name: of the benchmark.
        measured: by method and metric, read from result files.
        published: by method and metric, as the literature reports them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(
        json.dumps({"benchmark": name, "measured": measured, "published": published}, indent=2) + "\n"
    )
    metrics = list(dict.fromkeys(metric for scores in measured.values() for metric in scores))
    columns = {**measured, **published}
    rows = [[metric, *(_shown(scores, metric) for scores in columns.values())] for metric in metrics]
    head = [name, *measured, *published]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    note = "Columns that name a paper are that paper's figures, not measured here."
    (folder / "scores.md").write_text("\n".join([*lines, "", note]) + "\n")
    # In the terminal one block of rows for each method: some benchmarks have 19 metrics and seven methods.
    table = Table(title=name, caption=note if published else None)
    table.add_column("method", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for method, scores in columns.items():
        shown = [metric for metric in metrics if metric in scores]
        for metric in shown:
            table.add_row(method if metric == shown[0] else "", metric, _shown(scores, metric))
        table.add_section()
    PlainConsole(width=None if sys.stdout.isatty() else 120).print(table)


def _shown(scores: Mapping[str, float], metric: str) -> str:
    return f"{scores[metric]:.3f}" if metric in scores else ""
