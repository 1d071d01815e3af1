"""What backends return, checked where they answer: one definition of each, and numbers of any library as plain ones."""

import numbers
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, PlainValidator, StrictStr, TypeAdapter, ValidationError

from collect.protocols import Verdict

Checked = TypeVar("Checked")


def _share(value: object) -> float:
    """A number in [0, 1], of Python, numpy or torch."""
    if isinstance(value, torch.Tensor):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, (np.generic, np.ndarray)) and value.size == 1:
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise ValueError("it is no number")
    number = float(value)
    if not 0.0 <= number <= 1.0:
        raise ValueError("scores must be in [0, 1]")
    return number


def _storable(text: str) -> str:
    """A text that files, databases and tokenizers take: half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it is no valid Unicode text") from error
    return str(text)


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _listed(value: object) -> object:
    """Arrays as lists."""
    return value.tolist() if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim else value


Share = Annotated[float, PlainValidator(_share)]
Text = Annotated[StrictStr, AfterValidator(_storable)]
Prompt = Annotated[Text, AfterValidator(_filled)]

_SHARE: TypeAdapter[float] = TypeAdapter(Share)
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_SCORES: TypeAdapter[dict[str, float]] = TypeAdapter(dict[Text, Share])
_SHARES: TypeAdapter[list[float]] = TypeAdapter(Annotated[list[Share], BeforeValidator(_listed)])
_REWRITES: TypeAdapter[list[str]] = TypeAdapter(list[Prompt])
_PROPOSALS: TypeAdapter[list[list[str]]] = TypeAdapter(list[list[Prompt]])
_ANY: TypeAdapter[list[Any]] = TypeAdapter(list[Any])


def checked_verdicts(backend: object, given: object, count: int, ranked: bool) -> list[Verdict]:
    """What a verifier returned for so many videos.

    Args:
        backend: the verifier, named in the message.
        given: what it returned.
        count: number of videos.
        ranked: whether its scores rank, so that there must be some.

    Raises:
        ValueError: saying what is wrong and where.
    """
    name = type(backend).__name__
    verdicts = []
    answers: list[Any] = _checked(_ANY, given, f"{name}.judge", (count, "verdicts", "videos"))
    for place, verdict in enumerate(answers):
        where = f"{name}.judge[{place}]"
        if not isinstance(verdict, Verdict):
            raise ValueError(f"{where} is no Verdict, got {verdict!r:.80}")
        scores = _checked(_SCORES, verdict.scores, f"{where}.scores")
        critique = _checked(_TEXT, verdict.critique, f"{where}.critique")
        if verdict.error is not None:
            verdicts.append(Verdict.failed(_checked(_TEXT, verdict.error, f"{where}.error")))
            continue
        if ranked and not scores:
            raise ValueError(f"{where}.scores is empty; a verifier that ranks must give a score or say why it can't")
        verdicts.append(Verdict(scores, critique))
    return verdicts


def checked_rewrites(backend: object, given: object, count: int) -> list[str]:
    """What a rewriter returned for so many prompts.

    Raises:
        ValueError: saying what is wrong and where.
    """
    return _checked(_REWRITES, given, f"{type(backend).__name__}.rewrite", (count, "rewrites", "prompts"))


def checked_proposals(backend: object, given: object, count: int) -> list[list[str]]:
    """What a proposer returned for so many prompts.

    Raises:
        ValueError: saying what is wrong and where.
    """
    return _checked(_PROPOSALS, given, f"{type(backend).__name__}.propose", (count, "lists", "prompts"))


def checked_choices(backend: object, given: object, count: int) -> list[float]:
    """What a discriminator returned for so many pairs: probabilities.

    Raises:
        ValueError: saying what is wrong and where.
    """
    return _checked(_SHARES, given, f"{type(backend).__name__}.choose", (count, "probabilities", "pairs"))


def checked_opinion(given: object) -> tuple[float, str]:
    """A score in [0, 1], alone or with a critique.

    Raises:
        ValueError: if it is neither.
    """
    score, critique = given if isinstance(given, tuple) and len(given) == 2 else (given, "")
    return _checked(_SHARE, score, "the score"), _checked(_TEXT, critique, "the critique")


def _checked(
    adapter: TypeAdapter[Checked], given: object, what: str, expected: tuple[int, str, str] | None = None
) -> Checked:
    """Validate a value and say what is wrong in one line; of a list also how many there should be of what."""
    if expected is not None and isinstance(given, Sequence) and not isinstance(given, str):
        count, answers, questions = expected
        if len(given) != count:
            raise ValueError(f"{what} returned {len(given)} {answers} for {count} {questions}")
    try:
        return adapter.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in first["loc"])
        why = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{what}{where}: {why}, got {first['input']!r:.80}") from error
