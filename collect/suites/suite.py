"""A public benchmark with a rewriter in front: rewrites line by line, videos where its evaluator looks, its scores."""

import csv
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collect.console import PlainConsole
from collect.protocols import Generator, Rewriter
from collect.search.renderer import Renderer, seeds_of
from collect.search.retries import BackendError
from collect.search.store import Sample, Store
from collect.suites.benchmark import Benchmark, SuitePrompt
from collect.suites.contamination import overlaps
from collect.suites.table import write_table

PURPOSE = "suite"  # of the seeds: neither searches nor evaluations draw them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """One video that the evaluator reads, named by the benchmark's prompt and made from the rewrite."""

    path: Path
    sample: Sample


def suite(
    benchmark: Benchmark,
    output: Path,
    rewriter: Rewriter | None = None,
    generator: Generator | None = None,
    results: dict[str, Path] | None = None,
    training: list[Path] | None = None,
    min_similarity: float = 0.9,
    max_videos: int | None = None,
    limit: int | None = None,
) -> None:
    """Take a benchmark's official prompt file through a rewriter and a generator, and read its evaluator's scores.

    Each part is done where its argument is given. Rewrites are for the generator alone: everything is named by the
    benchmark's own prompts, which its evaluator compares the videos with. A killed run resumes where it stopped.

    Args:
        benchmark: one of ``collect.suites``, with its prompt file.
        output: folder of ``rewrites``, ``videos`` with ``videos.csv`` (which prompt, rewrite and seed each video is
            of), ``contamination.csv``, ``scores.json`` and ``scores.md``.
        rewriter: writes the rewrites; null renders the benchmark's prompts as they are.
        generator: makes the videos, as many for each prompt as the benchmark asks for.
        results: folders that the benchmark's own evaluator wrote, by the name of the method.
        training: files of prompts, captions or records that a rewriter is trained on, to be compared with the
            benchmark's prompts.
        min_similarity: cosine of sentence embeddings from which two prompts count as near duplicates.
        max_videos: at most so many videos for each prompt, for a trial; the benchmark's own evaluator wants them all.
        limit: use only so many prompts, from the start of the file, for a trial.

    Raises:
        FileNotFoundError: if a file or folder does not exist.
        ValueError: if nothing is to be done, or a file is not of the benchmark's format.
    """
    if not (rewriter or generator or results or training):
        raise ValueError("nothing to do: give a rewriter, a generator, results or training files.")
    if max_videos is not None and max_videos < 1:
        raise ValueError(f"max_videos must be at least 1, got {max_videos}.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    if not 0 < min_similarity <= 1:
        raise ValueError(f"min_similarity must be above 0 and at most 1, got {min_similarity}.")
    scores = {method: benchmark.read_scores(folder) for method, folder in (results or {}).items()}
    asked = benchmark.prompts()[:limit]
    if training:
        check(asked, training, min_similarity, output)
    texts = [prompt.prompt.prompt for prompt in asked]
    if rewriter is not None:
        texts = [" ".join(text.split()) for text in rewriter.rewrite([prompt.prompt for prompt in asked])]
        write_rewrites(output / "rewrites", asked, texts)
    if generator is not None:
        render(output, benchmark, asked, texts, generator, max_videos)
    if scores:
        write_table(output, benchmark.name, scores, benchmark.published)


def check(asked: Sequence[SuitePrompt], training: Sequence[Path], min_similarity: float, output: Path) -> None:
    """Write and count the prompts that training texts repeat."""
    found = overlaps([prompt.prompt.prompt for prompt in asked], training, min_similarity)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "contamination.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "similarity", "prompt", "training", "file"])
        writer.writerows([o.kind, f"{o.similarity:.3f}", o.prompt, o.training, o.file] for o in found)
    kinds = Counter(overlap.kind for overlap in found)
    PlainConsole(soft_wrap=True, highlight=False).print(
        f"{kinds['exact']} of {len(asked)} prompts are in the training texts word for word, {kinds['near']} nearly; "
        f"see {output / 'contamination.csv'}"
    )


def write_rewrites(folder: Path, asked: Sequence[SuitePrompt], texts: Sequence[str]) -> None:
    """Write each file of rewrites with its lines where the benchmark's prompts have theirs; blank lines stay blank."""
    lines: dict[str, list[str]] = {}
    for prompt, text in zip(asked, texts, strict=True):
        file = lines.setdefault(prompt.file, [])
        file.extend([""] * (prompt.line + 1 - len(file)))
        file[prompt.line] = text
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in lines.items():
        (folder / name).write_text("\n".join(file) + "\n", encoding="utf-8")
    same = sum(prompt.prompt.prompt == text for prompt, text in zip(asked, texts, strict=True))
    logger.info("%d prompts: %d rewritten, %d left as they are.", len(asked), len(asked) - same, same)


def render(
    output: Path,
    benchmark: Benchmark,
    asked: Sequence[SuitePrompt],
    texts: Sequence[str],
    generator: Generator,
    max_videos: int | None,
) -> None:
    """Make the videos, and give each the names that the evaluator looks for.

    Raises:
        BackendError: if some could not be made; those that were are in place.
    """
    videos = _videos(output / "videos", asked, texts, max_videos)
    settings = {"benchmark": benchmark.name, "generator": generator.fingerprint}
    missing = 0
    with Store(output / "renders", settings) as store:
        renderer = Renderer(store, generator, {}, 1, PURPOSE)
        renderer.judge([video.sample for video in videos])
        with (output / "videos.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["videopath", "caption", "rewrite", "seed"])
            for video in videos:
                video.path.unlink(missing_ok=True)  # of an earlier rewriter
                made = renderer.video(video.sample).path
                if not made.is_file():
                    missing += 1
                    continue
                video.path.parent.mkdir(parents=True, exist_ok=True)
                os.link(made, video.path)
                path, sample = video.path.relative_to(output), video.sample
                writer.writerow([path, sample.prompt.prompt, sample.text, sample.seed])
        if missing:
            raise BackendError(
                f"{missing} of {len(videos)} videos could not be made; see the warnings above. "
                "What was made is kept: start the same command again."
            )
        store.finish()
    logger.info("%d videos for %s are in %s.", len(videos), benchmark.name, output / "videos")


def _videos(folder: Path, asked: Sequence[SuitePrompt], texts: Sequence[str], max_videos: int | None) -> list[Video]:
    """Every video once: a prompt that the file repeats has its videos in common."""
    videos: dict[Path, Video] = {}
    for prompt, text in zip(asked, texts, strict=True):
        seeds = seeds_of(prompt.prompt, len(prompt.videos), PURPOSE)
        for name, seed in list(zip(prompt.videos, seeds, strict=True))[:max_videos]:
            videos.setdefault(folder / name, Video(folder / name, Sample(prompt.prompt, text, seed)))
    return list(videos.values())
