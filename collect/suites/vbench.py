"""VBench and VBench-2.0: videos named by the prompt and the number of the sample.

Formats as in https://github.com/Vchitect/VBench: ``prompts/README.md``, ``VBench-2.0/prompts/README.md``,
``vbench/__init__.py`` (``build_full_info_json``), ``scripts/constant.py`` and both ``scripts/cal_final_score.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from collect.suites.benchmark import (
    SuitePrompt,
    mean_of_runs,
    numbered_lines,
    prompt_files,
    read_json,
    result_files,
    suite_prompt,
    texts_of,
)
from collect.suites.published import RAPO_VBENCH, Scores

NAME_LENGTH = 180  # characters of a prompt that VBench-2.0 takes into a file's name


@dataclass(frozen=True)
class Combined:
    """The file of all prompts, which is known by its name or its number of lines.

    Args:
        name: of the file, without ``.txt``.
        num_lines: of the file.
        special: the dimension that wants more videos a prompt than the others.
        num_special: how many of its lines, from the start, are that dimension's.
    """

    name: str
    num_lines: int
    special: str
    num_special: int


ALL_DIMENSION = Combined("all_dimension", 946, "temporal_flickering", 75)
FULL_TEXT = Combined("VBench2_full_text", 1013, "Diversity", 10)

# What a score of 0 and of 1 is before normalisation, where it is not that; and weights other than 1.
RANGES = {
    "subject consistency": (0.1462, 1.0),
    "background consistency": (0.2615, 1.0),
    "temporal flickering": (0.6293, 1.0),
    "motion smoothness": (0.706, 0.9975),
    "scene": (0.0, 0.8222),
    "appearance style": (0.0009, 0.2855),
    "temporal style": (0.0, 0.364),
    "overall consistency": (0.0, 0.364),
}
WEIGHTS = {"dynamic degree": 0.5}
QUALITY = (
    "subject consistency",
    "background consistency",
    "temporal flickering",
    "motion smoothness",
    "aesthetic quality",
    "imaging quality",
    "dynamic degree",
)
SEMANTIC = (
    "object class",
    "multiple objects",
    "human action",
    "color",
    "spatial relationship",
    "scene",
    "appearance style",
    "temporal style",
    "overall consistency",
)
CATEGORIES = {
    "creativity": ("diversity", "composition"),
    "commonsense": ("motion rationality", "instance preservation"),
    "controllability": (
        "dynamic spatial relationship",
        "dynamic attribute",
        "motion order understanding",
        "human interaction",
        "complex landscape",
        "complex plot",
        "camera motion",
    ),
    "human fidelity": ("human anatomy", "human identity", "human clothes"),
    "physics": ("mechanics", "thermotics", "material", "multi-view consistency"),
}


class VBench:
    """VBench: 16 dimensions, 5 videos a prompt and 25 for temporal flickering, whose still ones are picked out later.

    Args:
        prompt_file: ``prompts/all_dimension.txt``, the folder ``prompts/prompts_per_dimension``, one of its files, or
            ``VBench_full_info.json``.
    """

    name = "VBench"
    published: ClassVar[Scores] = RAPO_VBENCH

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompts; all videos lie in one folder.

        A prompt of several dimensions comes once in the combined file and once in each dimension's, with as many
        videos as the most demanding dimension asks for.
        """
        asked = _read(self.prompt_file, ALL_DIMENSION)
        most = {line.text: 5 for line in asked} | {line.text: 25 for line in asked if line.special}
        return [
            suite_prompt(
                line.text,
                line.file,
                line.number,
                [f"{_name(line.text)}-{index}.mp4" for index in range(most[line.text])],
            )
            for line in asked
        ]

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read ``*_eval_results.json``; in per cent, with the totals where all 16 dimensions are there."""
        raw = _eval_results(folder)
        scores = {name: 100 * score for name, score in raw.items()}
        if raw.keys() >= {*QUALITY, *SEMANTIC}:
            quality, semantic = _weighted(raw, QUALITY), _weighted(raw, SEMANTIC)
            scores |= {"quality": quality, "semantic": semantic, "total": (4 * quality + semantic) / 5}
        return scores


class VBench2:
    """VBench-2.0: 18 dimensions, 3 videos a prompt and 20 for diversity.

    Args:
        prompt_file: ``prompts/VBench2_full_text.txt``, whose videos go into one folder for the benchmark's
            ``divide_video.py``; or the folder ``prompts/prompt``, one of its files, or ``VBench2_full_info.json``,
            whose videos go into a folder for each dimension.
    """

    name = "VBench-2.0"
    published: ClassVar[Scores] = {}

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompts; names have their first 180 characters."""
        found = []
        for line in _read(self.prompt_file, FULL_TEXT):
            folder, name = f"{line.dimension}/" if line.dimension else "", _name(line.text[:NAME_LENGTH])
            names = [f"{folder}{name}-{index}.mp4" for index in range(20 if line.special else 3)]
            found.append(suite_prompt(line.text, line.file, line.number, names))
        return found

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read ``*_eval_results.json``; in per cent, with the means of the categories that are complete."""
        scores = {name: 100 * score for name, score in _eval_results(folder).items()}
        means = {
            category: fmean(scores[name] for name in names)
            for category, names in CATEGORIES.items()
            if scores.keys() >= set(names)
        }
        total = {"total": fmean(means.values())} if means.keys() == CATEGORIES.keys() else {}
        return scores | means | total


@dataclass(frozen=True)
class Line:
    """A prompt, the file and line of its rewrite, its dimension if the file says, and whether it is the special one."""

    text: str
    file: str
    number: int
    dimension: str
    special: bool


def _read(path: Path, combined: Combined) -> list[Line]:
    if path.suffix == ".json":
        rows: Any = read_json(path)
        texts = texts_of(rows, "prompt_en", path)
        found = []
        for number, text in texts:
            dimensions = rows[number].get("dimension") or [""]
            found.append(Line(text, f"{combined.name}.txt", number, str(dimensions[0]), combined.special in dimensions))
        return found
    found = []
    for file in prompt_files(path):
        lines = numbered_lines(file)
        if file.stem == combined.name or len(lines) == combined.num_lines:
            found += [Line(text, file.name, number, "", number < combined.num_special) for number, text in lines]
        else:
            special = file.stem == combined.special
            found += [Line(text, file.name, number, file.stem, special) for number, text in lines]
    return found


def _name(text: str) -> str:
    if "/" in text:
        raise ValueError(f"the prompt {text[:80]!r} has a slash, which no file's name can have; leave it out.")
    return text


def _eval_results(folder: Path) -> dict[str, float]:
    runs = []
    for path in result_files(folder, "*_eval_results.json", "the evaluator"):
        read = read_json(path)
        if not isinstance(read, dict) or not all(isinstance(found, Sequence) and found for found in read.values()):
            raise ValueError(f"{path} must give each dimension a list that begins with its score.")
        runs.append({name.replace("_", " ").lower(): float(found[0]) for name, found in read.items()})
    return mean_of_runs(runs)


def _weighted(raw: dict[str, float], names: Sequence[str]) -> float:
    """Normalised and weighted mean, in per cent."""
    sums = 0.0
    for name in names:
        low, high = RANGES.get(name, (0.0, 1.0))
        sums += WEIGHTS.get(name, 1.0) * (raw[name] - low) / (high - low)
    return 100 * sums / sum(WEIGHTS.get(name, 1.0) for name in names)
