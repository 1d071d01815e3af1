"""What users ask for, and the captions of video models, read from files and checked before any model loads."""

import logging
from collections.abc import Iterator
from pathlib import Path

from data_modules.records import Caption, Prompt, content_id, read_records, unique
from data_modules.text import lines_of, listed, quoted, read_csv_rows, read_text

MAX_CHARACTERS = 2000
PROMPT_COLUMNS = ("captions", "prompt")
TASK_COLUMNS = ("phys_law", "task")
CAPTION_COLUMNS = ("caption", "captions", "text")

logger = logging.getLogger(__name__)


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """Read the usable prompts of a file; repeated and unusable ones are counted and named in a warning.

    Args:
        path: ``.jsonl`` of prompt records, ``.txt`` with a prompt a line, or ``.csv`` with a column ``captions`` or
            ``prompt`` and, for the rule a video must obey, perhaps ``phys_law`` or ``task``.
        limit: how many prompts to keep, from the start.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind, or holds no usable prompt.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    rows = list(_rows(path))
    usable = []
    for where, prompt in rows:
        wrong = fault(prompt.prompt)
        if wrong:
            logger.warning("%s is skipped: %s %s.", where, quoted(prompt.prompt), wrong)
        else:
            usable.append(prompt)
    if not rows:
        raise ValueError(f"{path} holds no prompts.")
    if not usable:
        raise ValueError(
            f"{path} holds no usable prompt: each of its {len(rows)} has no letter or digit "
            f"or over {MAX_CHARACTERS} characters."
        )
    prompts = unique(usable)
    if len(prompts) < len(rows):
        skipped, repeated = len(rows) - len(usable), len(usable) - len(prompts)
        logger.warning("%s: %d of %d prompts skipped, %d repeated.", path, skipped, len(rows), repeated)
    return prompts[:limit]


def fault(text: str) -> str | None:
    """Say what makes a text unusable as a prompt; ``None`` where nothing does."""
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters, more than {MAX_CHARACTERS}"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "has half of a character (a lone surrogate)"
    if not any(character.isalnum() for character in text):
        return "has no letter or digit"
    return None


def read_captions(path: Path) -> list[Caption]:
    """Read every caption of a file.

    Args:
        path: ``.jsonl`` of caption records, ``.txt`` with a caption a line, or ``.csv`` with a column ``caption``,
            ``captions`` or ``text``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind, or holds no caption.
    """
    if path.suffix == ".jsonl":
        return read_records(path, Caption)
    texts = [" ".join(text.split()) for _, text, _ in _texts(path, "captions", CAPTION_COLUMNS) if text]
    if not texts:
        raise ValueError(f"{path} holds no captions.")
    return [Caption(content_id(text), text, path.name) for text in texts]


def _rows(path: Path) -> Iterator[tuple[str, Prompt]]:
    """Read prompts and where each stands."""
    if path.suffix == ".jsonl":
        for number, prompt in enumerate(read_records(path, Prompt), 1):
            yield f"{path} record {number}", prompt
        return
    for where, text, task in _texts(path, "prompts", PROMPT_COLUMNS, TASK_COLUMNS):
        yield where, Prompt(content_id(text, task), text, task or None)


def _texts(
    path: Path, what: str, columns: tuple[str, ...], further: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Read a file of texts: where each stands, the text, and what a further column says; empty lines are none."""
    expected = f"{what} as .jsonl, .txt or .csv"
    if path.suffix == ".txt":
        for number, line in enumerate(lines_of(read_text(path, expected)), 1):
            if line.strip():
                yield f"{path}:{number}", line.strip(), ""
    elif path.suffix == ".csv":
        there, rows = read_csv_rows(path, expected)
        column = next((name for name in columns if name in there), None)
        second = next((name for name in further if name in there), None)
        if column is None:
            raise ValueError(f"{path} has columns {listed(there)}; one must be {' or '.join(columns)}.")
        for row in rows:
            if row.fault is not None:
                logger.warning("%s row %d (line %d) is skipped: %s.", path, row.number, row.line, row.fault)
            else:
                text, task = row.cells[column].strip(), row.cells[second].strip() if second else ""
                yield f"{path} row {row.number}", text, task
    elif path.is_file():
        raise ValueError(f"{path} is of no known kind; expected {expected}.")
    else:
        raise FileNotFoundError(f"{path} does not exist; expected {expected}.")
