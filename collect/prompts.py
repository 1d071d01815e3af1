"""What users ask for, read from a file and checked before any model loads."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

from data_modules.records import Prompt, content_id, read_records, unique

MAX_CHARACTERS = 2000
PROMPT_COLUMNS = ("captions", "prompt")
TASK_COLUMNS = ("phys_law", "task")

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
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected prompts as .jsonl, .txt or .csv.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    rows = list(_rows(path))
    usable = []
    for where, prompt in rows:
        wrong = fault(prompt.prompt)
        if wrong:
            shown = prompt.prompt if len(prompt.prompt) <= 60 else f"{prompt.prompt[:57]}..."
            logger.warning("%s is skipped: %r %s.", where, shown, wrong)
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
    if not any(character.isalnum() for character in text):
        return "has no letter or digit"
    return None


def _rows(path: Path) -> Iterator[tuple[str, Prompt]]:
    """Read prompts and where each stands."""
    if path.suffix == ".jsonl":
        for number, prompt in enumerate(read_records(path, Prompt), 1):
            yield f"{path} record {number}", prompt
    elif path.suffix == ".txt":
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip():
                yield f"{path}:{number}", _prompt(line, "")
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            text = next((name for name in PROMPT_COLUMNS if name in columns), None)
            task = next((name for name in TASK_COLUMNS if name in columns), None)
            if text is None:
                raise ValueError(f"{path} has columns {', '.join(columns)}; one must be {' or '.join(PROMPT_COLUMNS)}.")
            for number, row in enumerate(reader, 1):
                yield f"{path} row {number}", _prompt(row[text] or "", (row[task] or "") if task else "")
    else:
        raise ValueError(f"{path} is of no known kind; expected prompts as .jsonl, .txt or .csv.")


def _prompt(text: str, task: str) -> Prompt:
    text, task = text.strip(), task.strip()
    return Prompt(content_id(text, task), text, task or None)
