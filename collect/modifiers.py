"""Captions taken apart: the scene of each, and the subjects, actions and atmosphere that go with it."""

import ast
import csv
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from collect.protocols import LanguageModel
from data_modules import templates
from data_modules.records import Caption

logger = logging.getLogger(__name__)

KINDS = ("scene", "subject", "action", "atmosphere")
COLUMNS = {"place": "scene", "verb_obj_word": "action", "scenario_word": "atmosphere"}
CHUNK = 256  # captions sent to the language model at a time
NUM_NAMED = 5  # failures named one by one


@dataclass(frozen=True)
class Modifiers:
    """What one caption names, as phrases."""

    caption_id: str
    scene: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    atmosphere: tuple[str, ...] = ()

    def phrases(self) -> Iterator[tuple[str, str]]:
        """Every phrase and its kind."""
        for kind, texts in asdict(self).items():
            if kind in KINDS:
                yield from ((text, kind) for text in texts)


def normalise(phrase: str) -> str:
    """The identity of a phrase: neither blanks nor letter case tell two apart."""
    return " ".join(phrase.split()).casefold()


def read_csv(path: Path) -> tuple[list[Modifiers], list[str]]:
    """Read the published columns ``Input, verb_obj_word, scenario_word, place``, each list a Python literal.

    Headers that are repeated between rows are skipped.

    Returns:
        The modifiers of the readable rows, and what is wrong with the others, by row number (the header is row 1).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, or no row is readable.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a CSV with columns {', '.join(COLUMNS)}.")
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        missing = [name for name in ("Input", *COLUMNS) if name not in header]
        if missing:
            raise ValueError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(header) or 'none'}.")
        found: list[Modifiers] = []
        faults: list[str] = []
        for number, row in enumerate(rows, 2):
            if row in (header, []):
                continue
            try:
                found.append(_parse_row(row, header, f"{path.name}:{number}"))
            except ValueError as error:
                faults.append(f"{path} row {number}: {error}")
    _report(faults, len(found), path)
    return found, faults


def _parse_row(row: Sequence[str], header: Sequence[str], caption_id: str) -> Modifiers:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} fields where the header has {len(header)}")
    values = dict(zip(header, row, strict=True))
    lists = {}
    for column, kind in COLUMNS.items():
        try:
            phrases = ast.literal_eval(values[column].strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{column} is not a Python list: {values[column][:60]!r}") from error
        lists[kind] = _phrases(phrases, column)
    if not lists["scene"]:
        raise ValueError("it names no place, so nothing can be attached to it")
    return Modifiers(caption_id, **lists)


def _phrases(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(phrase, str) for phrase in value):
        raise ValueError(f"{name} is not a list of texts: {str(value)[:60]!r}")
    return tuple(dict.fromkeys(phrase for phrase in map(normalise, value) if phrase))


def extract(captions: Sequence[Caption], language_model: LanguageModel) -> tuple[list[Modifiers], list[str]]:
    """Take captions apart with a language model that answers in JSON; an unreadable answer is asked for once more.

    Returns:
        The modifiers of the readable answers, and what is wrong with the others, by caption id.
    """
    found: list[Modifiers] = []
    faults: list[str] = []
    for start in tqdm(range(0, len(captions), CHUNK), desc="taking captions apart", delay=10):
        asked = list(captions[start : start + CHUNK])
        read, failed = _ask(asked, language_model, seed=0)
        again, failed = _ask([caption for caption, _ in failed], language_model, seed=1)
        found += [answer for _, answer in sorted([*read, *again], key=lambda pair: asked.index(pair[0]))]
        faults += [f"caption {caption.id}: {fault}" for caption, fault in failed]
    _report(faults, len(found), None)
    return found, faults


def _ask(
    captions: Sequence[Caption], language_model: LanguageModel, seed: int
) -> tuple[list[tuple[Caption, Modifiers]], list[tuple[Caption, str]]]:
    if not captions:
        return [], []
    answers = language_model.complete([templates.extract(caption.caption) for caption in captions], seed=seed)
    read, failed = [], []
    for caption, answer in zip(captions, answers, strict=True):
        try:
            read.append((caption, parse_answer(answer, caption.id)))
        except ValueError as error:
            failed.append((caption, str(error)))
    return read, failed


def parse_answer(answer: str, caption_id: str) -> Modifiers:
    """Read the JSON object of an answer, be it fenced, in prose, with a comma too many or a list written as text.

    Raises:
        ValueError: if there is no object, or one of its values is no list of phrases, or it names no scene.
    """
    match = re.search(r"\{.*\}", answer, re.DOTALL)
    if not match:
        raise ValueError(f"no JSON object in {answer[:60]!r}")
    try:
        values = json.loads(re.sub(r",(\s*[\]}])", r"\1", match.group()))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"unreadable JSON ({error}) in {answer[:60]!r}") from error
    lists = {kind: _phrases(_listed(values.get(kind, [])), kind) for kind in KINDS}
    if not lists["scene"]:
        raise ValueError(f"no scene in {answer[:60]!r}")
    return Modifiers(caption_id, **lists)


def _listed(value: object) -> object:
    """A phrase, or a list written as text, where a list was asked for."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("["):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            return value
    return [value]


def _report(faults: Sequence[str], num_read: int, path: Path | None) -> None:
    for fault in faults[:NUM_NAMED]:
        logger.warning("Left out: %s", fault)
    if len(faults) > NUM_NAMED:
        logger.warning("Left out: %d more", len(faults) - NUM_NAMED)
    if not num_read:
        raise ValueError(f"{path or 'the language model'}: none of {len(faults)} captions could be read; see above.")
