"""An evaluation's numbers, figure and answers in a W&B run."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_type_hints

from collect import tracking
from collect.evaluation.figure import FIGURE
from collect.evaluation.numbers import Difference, Estimate, Report, Round, Summary
from data_modules.records import Result

NUM_VIDEOS_LOGGED = 4  # prompts whose videos are shown


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
