"""What captions name: the scene of each, and the subjects, actions and atmosphere that go with it."""

import ast
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from collect.backends.answers import complete
from collect.backends.json_objects import read_object
from collect.graph.grounding import grounded
from collect.protocols import Answer, LanguageModel
from data_modules import templates
from data_modules.progress import Progress
from data_modules.records import Caption, content_id
from data_modules.schema import parse_json
from data_modules.text import decode, listed, parse_list, quoted, read_csv_rows

logger = logging.getLogger(__name__)

KINDS = ("scene", "subject", "action", "atmosphere")
COLUMNS = {"place": "scene", "verb_obj_word": "action", "scenario_word": "atmosphere"}
CHUNK = 256  # captions sent to the language model at a time
NUM_NAMED = 5  # failures named one by one
NO_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # controls, halves of surrogate pairs
NOTHING = {"none", "n/a", "null", "unknown", "unspecified", "not specified"}  # what models write for an empty list


KEPT: Any = tuple[str, dict[str, Any]]  # a caption, and what it names or why its answer cannot be read


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
    """The identity of a phrase: neither blanks nor letter case tell two apart, and what is no character goes."""
    return " ".join(NO_CHARACTERS.sub(" ", phrase).split()).casefold()


def read_csv(path: Path) -> tuple[list[Modifiers], list[str]]:
    """Read the published columns ``Input, verb_obj_word, scenario_word, place``; lists are as Python or NumPy writes.

    Headers that are repeated between rows are skipped. After a quotation mark that is never closed, reading goes on
    with the next line.

    Returns:
        The modifiers of the readable rows, and what is wrong with the others, by row number (the header is row 1).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, or no row is readable.
    """
    found: list[Modifiers] = []
    faults: list[str] = []
    columns, rows = read_csv_rows(path, f"a CSV with columns {', '.join(COLUMNS)}", replace=True)
    missing = [name for name in ("Input", *COLUMNS) if name not in columns]
    if missing:
        raise ValueError(f"{path} lacks column {', '.join(missing)}; it has {listed(columns)}.")
    for row in rows:
        try:
            if row.fault:
                raise ValueError(row.fault)
            found.append(_parse_row(row.cells, f"{path.name}:{row.number}"))
        except ValueError as error:
            faults.append(f"{path} row {row.number}: {error}")
    _report(faults, len(found), path)
    return found, faults


def _parse_row(cells: Mapping[str, str], caption_id: str) -> Modifiers:
    lists = {}
    for column, kind in COLUMNS.items():
        try:
            phrases = parse_list(cells[column])
        except ValueError as error:
            raise ValueError(f"{column} is {error}") from error
        lists[kind] = _phrases(phrases, column)
    if not lists["scene"]:
        raise ValueError("it names no place, so nothing can be attached to it")
    return Modifiers(caption_id, **lists)


def _phrases(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(phrase, str) for phrase in value):
        raise ValueError(f"{name} is not a list of texts: {quoted(value)}")
    return tuple(dict.fromkeys(phrase for phrase in map(normalise, value) if phrase))


def extract(
    captions: Sequence[Caption],
    language_model: LanguageModel,
    scratch: Path | None = None,
    few_shot: bool = False,
    identity: Any = None,
) -> tuple[list[Modifiers], list[str]]:
    """Take captions apart with a language model that answers in JSON; an unreadable answer is asked for once more.

    A phrase with a word that its caption does not have is dropped and counted in the log: models also say what they
    imagine, or were shown in an example.

    Args:
        captions: in the order of the answers; one that comes twice is asked for once and counts twice.
        language_model: answers.
        scratch: folder that keeps what was answered, so that a killed call resumes where it stopped.
        few_shot: show the language model worked examples.
        identity: what the language model is, as JSON; another one's answers in the folder are left alone.

    Returns:
        The modifiers of the readable answers, and what is wrong with the others, by caption id.
    """
    different = list({caption.caption: caption for caption in captions}.values())
    settings = json.dumps([few_shot, identity, "grounded"], sort_keys=True)
    digest = content_id(settings, *(caption.caption for caption in different))
    kept = scratch / f"modifiers-{digest}.jsonl" if scratch is not None else None
    answers = _kept(kept) if kept is not None else {}
    if answers:
        logger.info("%d captions were answered before; remove %s to ask again", len(answers), kept)
    elif scratch is not None and (others := sorted(scratch.glob("modifiers-*.jsonl"))):
        logger.warning(
            "%s holds another language model's answers, or of other captions; all are asked again", others[0]
        )
    for start in Progress(range(len(answers), len(different), CHUNK), desc="extracting modifiers", delay=10):
        asked = different[start : start + CHUNK]
        read = _ask(asked, language_model, few_shot, seed=0)
        failed = [caption for caption in asked if "fault" in read[caption.caption]]
        read |= _ask(failed, language_model, few_shot, seed=1)
        answers |= read
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps([caption.caption, read[caption.caption]]) + "\n" for caption in asked)
    found = []
    faults = []
    for caption in captions:
        answer = answers[caption.caption]
        if "fault" in answer:
            faults.append(f"caption {caption.id}: {answer['fault']}")
        else:
            found.append(Modifiers(caption.id, **{kind: tuple(answer[kind]) for kind in KINDS}))
    dropped = sum(answer.get("dropped", 0) for answer in answers.values())
    if dropped:
        logger.warning(
            "%d of %d phrases are dropped: their captions do not have their words.",
            dropped,
            dropped + sum(len(answer[kind]) for answer in answers.values() if "fault" not in answer for kind in KINDS),
        )
    _report(faults, len(found), None)
    return found, faults


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    """Answers that were written down by a killed call, in the order of the captions; a torn line is cut off."""
    if not path.exists():
        return {}
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = whole.splitlines(keepends=True)[: len(whole.splitlines()) // CHUNK * CHUNK]
    path.write_bytes(b"".join(lines))
    remedy = f"remove {path} to ask again."
    answers: list[tuple[str, dict[str, Any]]]
    answers = [parse_json(decode(line, path), KEPT, f"{path}:{number}", remedy) for number, line in enumerate(lines, 1)]
    return dict(answers)


def _ask(
    captions: Sequence[Caption], language_model: LanguageModel, few_shot: bool, seed: int
) -> dict[str, dict[str, Any]]:
    """What each caption names, or why its answer cannot be read, by the caption's text."""
    if not captions:
        return {}
    conversations = [templates.extract(caption.caption, few_shot) for caption in captions]
    answers = complete(language_model, conversations, seed=seed, schema=templates.EXTRACT_SCHEMA)
    return {caption.caption: _read(answer, caption) for caption, answer in zip(captions, answers, strict=True)}


def _read(answer: Answer, caption: Caption) -> dict[str, Any]:
    """What of an answer is in the caption, and how many phrases are not; or why there is nothing."""
    try:
        found = parse_answer(answer, caption.id)
    except ValueError as error:
        return {"fault": str(error) if answer.fault is None else f"{error}; {answer.fault}"}
    lists = {kind: getattr(found, kind) for kind in KINDS}
    left = {kind: grounded(phrases, caption.caption) for kind, phrases in lists.items()}
    dropped = sum(len(lists[kind]) - len(left[kind]) for kind in KINDS)
    if not left["scene"]:
        return {"fault": f"no scene of {', '.join(map(repr, found.scene))} is in the caption", "dropped": dropped}
    return {**left, "dropped": dropped}


def parse_answer(answer: str, caption_id: str) -> Modifiers:
    """Read the first JSON object of an answer that names a scene; its lists may be texts.

    Raises:
        ValueError: if there is no object, or one of its values is no list of phrases, or it names no scene.
    """
    try:
        return Modifiers(caption_id, **read_object(answer, _lists))
    except ValueError as error:
        raise ValueError(f"{error} in {answer[:60]!r}") from error


def _lists(values: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The phrases of each kind."""
    lists = {kind: _phrases(_listed(values.get(kind) or []), kind) for kind in KINDS}
    lists = {kind: tuple(phrase for phrase in lists[kind] if phrase not in NOTHING) for kind in KINDS}
    if not lists["scene"]:
        raise ValueError("no scene")
    return lists


def _listed(value: object) -> object:
    """A phrase, or a list written as text, where a list was asked for."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("["):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return [value]


def _report(faults: Sequence[str], num_read: int, path: Path | None) -> None:
    for fault in faults[:NUM_NAMED]:
        logger.warning("Left out: %s", fault)
    if len(faults) > NUM_NAMED:
        logger.warning("Left out: %d more", len(faults) - NUM_NAMED)
    if not num_read:
        raise ValueError(f"{path or 'the language model'}: none of {len(faults)} captions could be read; see above.")
