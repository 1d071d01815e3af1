"""Draw frames of raw prompts' videos beside frames of their rewrites' videos: ``make pictures``."""

import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli, set_loader
from matplotlib.figure import Figure
from yaml import YAMLError

from collect.backends.video import Video, read_video
from collect.prompts import read_prompts
from collect.protocols import Generator, RenderRequest, Rewriter, Verifier
from collect.search.renderer import seeds_of
from collect.sub_configs import SubConfigs
from data_modules.records import Prompt

WIDTH = 10.0  # inches
GAP = 0.3  # inches, between the two columns
POINTS = 10  # size of the text
LINE = 0.18  # inches, of text
PROMPT_CHARACTERS = 60  # of a line of a prompt, which is bold
CRITIQUE_CHARACTERS = 70
# Background, text and quieter text of GitHub's two themes.
THEMES = {"light": ("#ffffff", "#1f2328", "#59636e"), "dark": ("#0d1117", "#f0f6fc", "#9198a1")}


@dataclass(frozen=True)
class Strip:
    """A text, the video rendered from it, and the judge's score and critique; texts as lines."""

    text: list[str]
    video: Video
    critique: list[str]


def draw(
    prompts: Path,
    output: Path,
    generator: Generator,
    rewriter: Rewriter,
    judge: Verifier,
    metric: str = "alignment",
    limit: int = 3,
    num_frames: int = 4,
) -> None:
    """Write ``before_after_light.png`` and ``before_after_dark.png``: a row a prompt, raw on the left.

    Both videos of a prompt have the same seed.

    Args:
        prompts: user prompts, of any kind that ``collect run`` reads.
        output: folder of the pictures.
        generator: renders the videos.
        rewriter: rewrites the prompts.
        judge: judges each video against the raw prompt.
        metric: the judge's score to show.
        limit: how many prompts to show, from the start of the file.
        num_frames: frames of each video to show, evenly spaced.
    """
    asked = read_prompts(prompts, limit)
    raw = [prompt.prompt for prompt in asked]
    columns = {
        "raw prompt": _strips(asked, raw, generator, judge, metric),
        "rewritten prompt": _strips(asked, rewriter.rewrite(asked), generator, judge, metric),
    }
    output.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        figure = _figure(columns, num_frames, *colours)
        figure.savefig(output / f"before_after_{theme}.png", dpi=160, facecolor=figure.get_facecolor())


def _strips(
    prompts: Sequence[Prompt], texts: Sequence[str], generator: Generator, judge: Verifier, metric: str
) -> list[Strip]:
    with tempfile.TemporaryDirectory() as folder:
        requests = [
            RenderRequest(text, seeds_of(prompt, 1, "picture")[0], Path(folder) / f"{prompt.id}.mp4")
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        generator.generate(requests)
        verdicts = judge.judge(prompts, [request.path for request in requests])
        return [
            Strip(
                textwrap.wrap(request.prompt, PROMPT_CHARACTERS),
                read_video(request.path),
                textwrap.wrap(f"{verdict.scores[metric]:.2f}  {verdict.critique}", CRITIQUE_CHARACTERS),
            )
            for request, verdict in zip(requests, verdicts, strict=True)
        ]


def _figure(columns: dict[str, list[Strip]], num_frames: int, background: str, text: str, quiet: str) -> Figure:
    """Lay out columns of strips; all distances are inches from the left and the top."""
    strips = [strip for column in columns.values() for strip in column]
    frames, height, width, _ = strips[0].video.shape
    shown = np.linspace(0, frames - 1, num_frames).round().astype(int)
    wide = (WIDTH - GAP * (len(columns) - 1)) / len(columns)  # of a column
    side = wide / num_frames  # of a frame, with the space beside it
    picture = side * height / width
    above = LINE * (max(len(strip.text) for strip in strips) + 0.3)
    below = LINE * (max(len(strip.critique) for strip in strips) + 1.2)
    row = above + picture + below
    tall = 2 * LINE + row * (len(strips) // len(columns))
    figure = Figure(figsize=(WIDTH, tall), facecolor=background)

    def write(left: float, top: float, lines: list[str], colour: str, weight: str = "normal") -> None:
        for number, line in enumerate(lines, 1):
            baseline = 1 - (top + number * LINE - 0.04) / tall
            figure.text(left / WIDTH, baseline, line, color=colour, weight=weight, size=POINTS)

    for index, (name, column) in enumerate(columns.items()):
        left = index * (wide + GAP)
        write(left, 0, [name], quiet)
        for number, strip in enumerate(column):
            top = 2 * LINE + number * row + above
            write(left, top - LINE * (len(strip.text) + 0.3), strip.text, text, "bold")
            for place, frame in enumerate(strip.video[shown]):
                size = (0.97 * side / WIDTH, picture / tall)
                axes = figure.add_axes(((left + place * side) / WIDTH, 1 - (top + picture) / tall, *size))
                axes.imshow(frame, interpolation="nearest")
                axes.axis("off")
            write(left, top + picture + 0.2 * LINE, strip.critique, quiet)
    return figure


if __name__ == "__main__":
    set_loader("yaml", SubConfigs().load, (YAMLError,))
    auto_cli(draw, as_positional=False)
