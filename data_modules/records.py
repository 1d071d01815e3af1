"""The on-disk schemas, read and written in one place: one JSON object a line, in TRL's formats."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Messages = list[Message]


@dataclass(frozen=True)
class Caption:
    """A training caption of the video model."""

    id: str
    caption: str
    source: str


@dataclass(frozen=True)
class Prompt:
    """What a user asks for; ``task`` is a further rule the video must obey, such as a physical law."""

    id: str
    prompt: str
    task: str | None = None


@dataclass(frozen=True)
class Rewrite:
    """An SFT example in TRL's conversational prompt-completion format."""

    id: str
    prompt: Messages
    completion: Messages


@dataclass(frozen=True)
class Choice:
    """A discriminator's example: which of two rewrites of a prompt the video model draws better.

    Args:
        id: of this order of this pair.
        prompt_id: of the user's prompt, by which examples are split.
        prompt: the question, which shows the rewrites as A and B.
        label: the better one, ``A`` or ``B``.
        scores: what the videos of each scored, in [0, 1], by the name of what wrote it; A's first.
    """

    id: str
    prompt_id: str
    prompt: Messages
    label: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Preference:
    """A DPO example in TRL's conversational preference format.

    Args:
        id: hash of the content.
        prompt: what is asked.
        chosen: the better answer.
        rejected: the worse one.
        margin: by how much the chosen answer's score is higher, mean over metrics and seeds; ``None`` where the
            rejected one was refused for its words and never rendered.
        kind: ``video`` where videos decided, ``text`` where the intent gate did.
    """

    id: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None
    kind: str


@dataclass(frozen=True)
class Evidence:
    """Why a mined record is what it is.

    Args:
        id: the record's.
        prompt_id: the search it was mined from.
        texts: the texts compared, by role (``raw``, ``champion``, ``chosen``, ``rejected``).
        origins: where each text came from.
        seeds: of the videos.
        scores: per role and metric one score per seed; nothing for a text that was not rendered.
    """

    id: str
    prompt_id: str
    texts: dict[str, str]
    origins: dict[str, str]
    seeds: list[int]
    scores: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Result:
    """One rendered and judged answer of one method to one prompt."""

    prompt_id: str
    method: str
    prompt: str
    rewrite: str
    seed: int
    video: str
    scores: dict[str, float]


Record = TypeVar("Record", Caption, Prompt, Rewrite, Choice, Preference, Evidence, Result)
Identified = TypeVar("Identified", Caption, Prompt, Rewrite, Preference)


def content_id(*parts: str) -> str:
    """Hash texts to a stable id of 16 hexadecimal digits."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records, replacing the file only once all of them are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
    partial.replace(path)


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read every record of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and key, if a line is not a record of this kind; or if there are none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected one {kind.__name__} as JSON per line.")
    records = [
        _parse(line, kind, f"{path}:{number}")
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if line.strip()
    ]
    if not records:
        raise ValueError(f"{path} holds no records; expected one {kind.__name__} as JSON per line.")
    return records


def unique(records: Sequence[Identified]) -> list[Identified]:
    """Drop records whose id came before, keeping the order."""
    first: dict[str, Identified] = {}
    for record in records:
        first.setdefault(record.id, record)
    return list(first.values())


def _parse(line: str, kind: type[Record], where: str) -> Record:
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}); is the file cut short? Write it again.") from error
    names = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or not set(values) <= set(names):
        raise ValueError(f"{where} is not a {kind.__name__}; its keys are {', '.join(names)}.")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where} is not a {kind.__name__}: {error}.") from error
