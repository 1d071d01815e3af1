"""What a public benchmark asks for, and how its files are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from data_modules.records import Prompt, content_id
from data_modules.schema import parse_json
from data_modules.text import lines_of, listed, read_csv_rows, read_text

MAX_NAME = 255  # bytes of a file name, on every file system in use


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt of a benchmark.

    Args:
        prompt: the benchmark's own text, by which its evaluator knows the videos.
        file: the file of rewrites that this prompt's rewrite is a line of; relative.
        line: of that file, from 0.
        videos: where the evaluator looks for the videos, relative to the folder it is given; one path a sample.
    """

    prompt: Prompt
    file: str
    line: int
    videos: tuple[str, ...]


class Benchmark(Protocol):
    """A prompt file in a benchmark's own format, and the result files of the benchmark's own evaluator."""

    name: str
    published: Mapping[str, Mapping[str, float]]  # scores by metric of each method in the literature, by its label

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompt file."""

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read what the evaluator wrote, in the unit that papers report.

        Raises:
            FileNotFoundError: if the folder holds none of its files.
        """


def suite_prompt(text: str, file: str, line: int, videos: Sequence[str]) -> SuitePrompt:
    """Make a suite's prompt, once its videos can have their names.

    Raises:
        ValueError: if one is no possible name of a file.
    """
    for path in map(Path, videos):
        if path.is_absolute() or ".." in path.parts or len(path.name.encode()) > MAX_NAME:
            raise ValueError(
                f"the prompt {text[:80]!r}... would name a video {path}: a name must be relative and have at most "
                f"{MAX_NAME} bytes; leave this line out of the prompt file."
            )
    return SuitePrompt(Prompt(content_id(text, ""), text), file, line, tuple(videos))


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Read a text file's lines that are not blank, each with its number from 0; surrounding blanks are dropped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no text.
    """
    text = read_text(path, "a benchmark's file of prompts")
    lines = [(number, line.strip()) for number, line in enumerate(lines_of(text))]
    found = [(number, line) for number, line in lines if line]
    if not found:
        raise ValueError(f"{path} holds no prompts.")
    return found


def prompt_files(path: Path) -> list[Path]:
    """List the text files of a folder in the order of their names, or the one file that the path is.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if the folder has no text file.
    """
    if not path.is_dir():
        _must_exist(path)
        return [path]
    files = sorted(path.glob("*.txt"))
    if not files:
        raise ValueError(f"{path} holds no .txt files; give the folder with the benchmark's prompt files.")
    return files


def read_json(path: Path, by_line: bool = False) -> Any:
    """Read a JSON file, or a file with a JSON object on each line as their list.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file.
    """
    text, remedy = read_text(path, "a benchmark's JSON file"), "is the file cut short? Fetch it again."
    if not by_line:
        return parse_json(text, object, str(path), remedy)
    lines = [(number, line) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    return [parse_json(line, object, f"{path}:{number}", remedy) for number, line in lines]


def texts_of(rows: Any, key: str, path: Path) -> list[tuple[int, str]]:
    """Take one text from each object of a list, with its place in the list.

    Raises:
        ValueError: if what was read is no list of objects with this key.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row.get(key) for row in rows):
        raise ValueError(f"{path} must be a list of objects that each have {key!r}; give the benchmark's own file.")
    return [(number, str(row[key]).strip()) for number, row in enumerate(rows)]


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file that has these columns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if one of the columns is missing, or there are no rows.
    """
    there, rows = read_csv_rows(path, f"a CSV with columns {', '.join(columns)}")
    missing = [column for column in columns if column not in there]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {listed(there)}.")
    found = []
    for row in rows:
        if row.fault is not None:
            raise ValueError(f"{path}:{row.line}: {row.fault}.")
        found.append(row.cells)
    if not found:
        raise ValueError(f"{path} holds no rows.")
    return found


def result_files(folder: Path, pattern: str, written_by: str) -> list[Path]:
    """Find an evaluator's result files below a folder.

    Raises:
        FileNotFoundError: if there are none.
    """
    files = sorted(folder.rglob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} holds no {pattern}, which {written_by} writes; run the evaluator first.")
    return files


def mean_of_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: fmean(run[name] for run in runs if name in run) for name in names}


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; fetch the benchmark's prompt file and give its path.")
