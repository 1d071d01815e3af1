"""An evaluation's numbers in the terminal."""

import sys

from rich.table import Table

from collect.console import PlainConsole
from collect.evaluation.numbers import BEST_OF_N, RAW, SEARCH, Report

WIDTH = 100  # columns of a terminal


def show(report: Report) -> None:
    """Print the closing tables, in full where nobody watches the width."""
    console = PlainConsole(width=None if sys.stdout.isatty() else WIDTH)
    console.print(_methods(report))
    console.print(_texts(report))
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


def _texts(report: Report) -> Table:
    table = Table(title="what the methods write", caption="variety: distinct words among 100 that they add")
    for column in ("method", "passes the gate", "is the raw prompt", "variety"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for s in report.methods:
        varied = "" if s.variety is None else f"{s.variety:.0f}"
        table.add_row(s.method, f"{s.intent_passed:.0%}", f"{s.unchanged:.0%}", varied)
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
