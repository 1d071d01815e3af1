"""What comes in from disk is checked once, against the type that describes it; what is wrong is said in one line."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from data_modules.text import quoted, read_text

# Of every type that is read here: no unknown keys, no conversions of what is none, no numbers that are none.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
# Of files in which others may say more than is read.
OPEN = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

T = TypeVar("T")


def adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks a type: a dataclass or typed dictionary with a configuration of its own, or any other, strictly."""
    return _made(kind)


@cache
def _made(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=None if hasattr(kind, "__pydantic_config__") else STRICT)


def parse_json(text: str, kind: type[T], where: str, remedy: str) -> T:
    """Read a value from JSON.

    Args:
        text: the JSON.
        kind: what it must be.
        where: file and line, for the error.
        remedy: what makes it again, for the error.

    Raises:
        ValueError: naming file, key, what was found and the remedy.
    """
    try:
        value: T = adapter(kind).validate_json(text)
    except ValidationError as error:
        raise ValueError(told(error, kind, where, remedy)) from None
    except UnicodeEncodeError as error:  # half a surrogate pair, as itself
        raise ValueError(f"{where} is not JSON ({error.reason}); {remedy}") from None
    return value


def check(value: object, kind: type[T], where: str, remedy: str) -> T:
    """See that a value is what it must be; arguments and error as for :func:`parse_json`."""
    try:
        checked: T = adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(told(error, kind, where, remedy)) from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply; {remedy}") from None
    return checked


def read_json(path: Path, kind: type[T], made_by: str) -> T:
    """Read a file of one JSON value.

    Args:
        path: the file.
        kind: what it must be.
        made_by: the command that writes it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, key, what was found and the command.
    """
    return parse_json(read_text(path, f"what {made_by} writes"), kind, str(path), f"make it again with {made_by}.")


def write_json(path: Path, value: object) -> None:
    """Write a file of one JSON value that :func:`read_json` reads, replacing the file at once.

    Raises:
        ValueError: naming the file, if a number in it is none, such as NaN, or a text is no text.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path} can't be written ({error}).") from error
    partial.replace(path)


def told(error: ValidationError, kind: Any, where: str, remedy: str) -> str:
    """Say in one line what is wrong first, and how much more is."""
    details = error.errors(include_url=False)
    first, name = details[0], getattr(kind, "__name__", "value")
    if first["type"] == "json_invalid":
        half = ": half of a surrogate pair is no character" if "hex escape" in first["ctx"]["error"] else ""
        return f"{where} is not JSON ({first['ctx']['error']}{half}); {remedy}"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    article = "an" if name[0] in "AEIOU" else "a"
    return f"{where} is not {article} {name}: {'; '.join(_faults(first, kind))}{more}; {remedy}"


def _faults(detail: ErrorDetails, kind: Any) -> Iterator[str]:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).removeprefix(".")
    if detail["type"] == "missing":
        yield f"it lacks {key}"
    elif detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        yield f"it has the unknown key {quoted(key)}"
    elif detail["type"] in ("dataclass_type", "dict_type", "model_type") and not key:
        yield f"found {quoted(detail['input'])}"
    else:
        yield f"{quoted(key)[1:-1] or 'it'} should be {_expected(detail)}, found {quoted(detail['input'])}"
    if is_dataclass(kind):
        yield f"its keys are {', '.join(field.name for field in fields(kind))}"


def _expected(detail: ErrorDetails) -> str:
    """What a value should have been, from pydantic's own words for it."""
    known = {
        "string_type": "a text",
        "string_unicode": "a text without halves of characters (lone surrogates)",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "list_type": "a list",
        "tuple_type": "a list",
        "dict_type": "an object",
        "dataclass_type": "an object",
    }
    message = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return known.get(detail["type"], message)
