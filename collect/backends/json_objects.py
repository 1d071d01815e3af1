"""What of an answer is the JSON object that was asked for, read as leniently as a person would."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml

from collect.backends.reasoning import without_reasoning

MAX_TRIES = 100  # braces with which no object begins
MAX_LENGTH = 20_000  # characters of an object that is not strictly JSON

Value = TypeVar("Value")

_UNREADABLE = (ValueError, SyntaxError, MemoryError, RecursionError, yaml.YAMLError)
_COMMENT = re.compile(r"(?<![:\"'\w])//[^\n]*|/\*.*?\*/", re.DOTALL)
_REFERENCE = re.compile(r"[&*]\w")  # with which YAML makes a little text a large value


def read_object(answer: str, read: Callable[[dict[str, Any]], Value]) -> Value:
    """Make something of the first whole object that it can be made of.

    Reasoning, prose and fences around objects do not count, and neither do lists and objects around the one looked for.
    Keys are handed on in lower case.

    Args:
        answer: of a language or vision-language model.
        read: gets an object; raises ValueError where it is not what was asked for.

    Raises:
        ValueError: saying what is wrong with the first object, or that there is none.
    """
    fault = None
    for values in json_objects(without_reasoning(answer)):
        try:
            return read({str(key).strip().casefold(): value for key, value in values.items()})
        except ValueError as error:
            fault = fault or error
    raise fault or ValueError("it is not JSON, no JSON object in it is whole")


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Every whole object in a text, outer ones before those inside them.

    An object may be written with single quotes, comments, bare keys or a comma too many, or as Python writes it.
    """
    begin, tries = text.find("{"), 0
    while begin >= 0 and tries < MAX_TRIES:
        value, end = _object(text, begin)
        if value is None:
            tries += 1
        else:
            yield from _within(value)
        begin = text.find("{", end)


def _object(text: str, begin: int) -> tuple[dict[str, Any] | None, int]:
    """The object that begins here, and where to read on."""
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, begin)
    except (ValueError, RecursionError):
        pass
    else:
        return value, end
    close = _closing(text, begin)
    if close is None or close - begin > MAX_LENGTH:
        return None, begin + 1
    for loads in (ast.literal_eval, _loose):
        try:
            value = loads(text[begin : close + 1])
        except _UNREADABLE:
            continue
        if isinstance(value, dict):
            return value, close + 1
    return None, begin + 1


def _loose(text: str) -> object:
    """An object with comments, bare keys or a comma too many, which YAML takes."""
    if _REFERENCE.search(text):
        raise ValueError("references are not read")
    return yaml.safe_load(_COMMENT.sub("", text))


def _closing(text: str, begin: int) -> int | None:
    """Where the brace that closes this one is; braces in double quotes do not count."""
    depth, quoted, place = 0, False, begin
    while place < len(text):
        character = text[place]
        if quoted and character == "\\":
            place += 1
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return place
        place += 1
    return None


def _within(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _within(inner)
