"""The on-disk schemas, read and written in one place: one JSON object a line, in TRL's formats.

The dataclasses are the definition: reading checks against them and errors are worded from them. What TRL calls the
standard format, texts where conversations have messages, is read as a conversation of one turn; a record without an id
gets one of its content.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from data_modules.schema import OPEN, STRICT, adapter, parse_json, told
from data_modules.text import read_text


@with_config(STRICT)
class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Messages = list[Message]

# Beside what JSON itself escapes: controls, of which one is a line end to some, and the separators of Unicode.
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Caption:
    """A training caption of the video model."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    caption: str
    source: str = ""


@dataclass(frozen=True)
class Prompt:
    """What a user asks for; ``task`` is a further rule the video must obey, such as a physical law."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    prompt: str
    task: str | None = None


@dataclass(frozen=True)
class Rewrite:
    """An SFT example in TRL's conversational prompt-completion format."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    prompt_id: str
    prompt: Messages
    label: Literal["A", "B"]
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
        kind: ``video`` where videos decided, ``text`` where the intent gate did, ``given`` where others did.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None
    kind: str = "given"


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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    prompt_id: str
    texts: dict[str, str]
    origins: dict[str, str]
    seeds: list[int]
    scores: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Result:
    """One rendered and judged answer of one method to one prompt."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompt_id: str
    method: str
    prompt: str
    rewrite: str
    seed: int
    video: str
    scores: dict[str, float]


@with_config(OPEN)
class Funnel(TypedDict):
    """``funnel.json`` of mined records, as far as a model card tells it: what each step left, by kind of record."""

    funnel: dict[str, dict[str, int]]


@with_config(OPEN)
class Estimate(TypedDict):
    """A number of an evaluation and its interval."""

    mean: float
    low: float
    high: float


@with_config(OPEN)
class Evaluation(TypedDict):
    """``summary.json`` of an evaluation, as far as a model card tells it: a row for each method."""

    metric: str
    num_prompts: int
    methods: list[dict[str, Estimate | float | int | str | None]]


@with_config(OPEN)
class Gate(TypedDict):
    """What the intent gate says of a text."""

    passed: bool


@with_config(OPEN)
class Gated(TypedDict):
    """A text that was considered, and what the gate says of it."""

    origin: str
    gate: Gate


@with_config(OPEN)
class Rewriting(TypedDict):
    """A line of ``python -m collect rewrite --format jsonl``, as far as a model card tells it."""

    candidates: list[Gated]


Record = TypeVar("Record", Caption, Prompt, Rewrite, Choice, Preference, Evidence, Result)
Identified = TypeVar("Identified", Caption, Prompt, Rewrite, Preference)


def content_id(*parts: str) -> str:
    """Hash texts to a stable id of 16 hexadecimal digits."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records, replacing the file only once all of them are written.

    Raises:
        ValueError: naming the record, if a number in it is none, such as NaN, or a text is no text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for number, record in enumerate(records, 1):
            try:
                file.write(to_line(asdict(record)))
            except ValueError as error:
                name = getattr(record, "id", None) or f"number {number}"
                raise ValueError(f"{path}: {type(record).__name__} {name} can't be written ({error}).") from error
    partial.replace(path)


def to_line(value: object) -> str:
    """Write a value as a line of JSON that no reader splits, and in which no terminal finds anything to obey."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not line.isascii() or "\x7f" in line:
        line = ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", line)
    return line + "\n"


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read every record of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and key, if a line is not a record of this kind; or if there are none.
    """
    expected = f"one {kind.__name__} as JSON per line"
    read = adapter(kind).validate_json
    records: list[Record] = []
    for number, line in enumerate(read_text(path, expected).split("\n"), 1):
        if not line or line.isspace():
            continue
        try:
            records.append(read(line))
        except (ValidationError, UnicodeEncodeError) as error:
            records.append(_completed(line, kind, f"{path}:{number}", error))
    if not records:
        raise ValueError(f"{path} holds no records; expected {expected}.")
    return records


def unique(records: Sequence[Identified]) -> list[Identified]:
    """Drop records whose id came before, keeping the order."""
    first: dict[str, Identified] = {}
    for record in records:
        first.setdefault(record.id, record)
    return list(first.values())


def _completed(line: str, kind: type[Record], where: str, error: ValidationError | UnicodeEncodeError) -> Record:
    """Read a record that lacks nothing but an id, or has texts where messages are; else say what is wrong with it."""
    remedy = "mend the line, or write the file again."
    if isinstance(error, UnicodeEncodeError):
        raise ValueError(f"{where} is not JSON ({error.reason}); {remedy}")
    if error.errors(include_url=False, include_input=False, include_context=False)[0]["type"] == "json_invalid":
        raise ValueError(told(error, kind, where, "is the file cut short? Write it again.")) from None
    values: Any = json.loads(line)
    if isinstance(values, dict):
        for name, hint in get_type_hints(kind).items():
            if hint == Messages and isinstance(values.get(name), str):
                role = "user" if name == "prompt" else "assistant"
                values[name] = [{"role": role, "content": values[name]}]
        names = [field.name for field in fields(kind)]
        if "id" in names and "id" not in values:
            parts = [values.get(name) or "" for name in names if name not in ("id", "source")]
            values["id"] = content_id(*(part if isinstance(part, str) else json.dumps(part) for part in parts))
    return parse_json(json.dumps(values), kind, where, remedy)
