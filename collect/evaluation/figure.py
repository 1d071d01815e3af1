"""Score against videos per prompt."""

from pathlib import Path

from matplotlib.figure import Figure

from collect.evaluation.numbers import BEST_OF_N, RAW, SEARCH, Point, Report

FIGURE = "score_by_videos.png"


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
