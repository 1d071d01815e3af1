"""What language models answer, asked and read in one place: whether it is whole, and what of it is the text."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from collect.backends.reasoning import ONLY_REASONING, without_reasoning
from collect.backends.wrapping import unwrap
from collect.protocols import Answer, JSONLanguageModel, LanguageModel
from data_modules.records import Messages

logger = logging.getLogger(__name__)


def complete(
    language_model: LanguageModel,
    conversations: Sequence[Messages],
    *,
    seed: int,
    schema: dict[str, Any] | None = None,
) -> list[Answer]:
    """Ask a language model and take its reasoning off; answers that are not whole say so.

    Args:
        language_model: answers.
        conversations: one for each answer.
        seed: of what is sampled.
        schema: JSON schema of the answers, for a language model that can be held to one.

    Raises:
        ValueError: if it returns anything else than a text for each conversation.
    """
    if schema is not None and isinstance(language_model, JSONLanguageModel):
        given = language_model.complete_json(conversations, schema, seed=seed)
    else:
        given = language_model.complete(conversations, seed=seed)
    name = type(language_model).__name__
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != len(conversations):
        found = f"{len(given)} answers" if isinstance(given, (list, tuple)) else f"{given!r:.80}"
        raise ValueError(
            f"{name} returned {found} to {len(conversations)} conversations; it must return a text for each"
        )
    return [_read(answer, name) for answer in given]


def write(
    language_model: LanguageModel, conversations: Sequence[Messages], raws: Sequence[str], *, seed: int
) -> list[Answer]:
    """Ask a language model for texts, and take off what it put around them.

    What was taken off is counted in the log, and so is what is no whole text: those answers are empty and say why.

    Args:
        language_model: answers.
        conversations: one for each text.
        raws: what each text is about; what this has, too, is no wrapping.
        seed: of what is sampled.

    Raises:
        ValueError: if the language model returns anything else than a text for each conversation.
    """
    taken: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    texts = []
    for answer, raw in zip(complete(language_model, conversations, seed=seed), raws, strict=True):
        if answer.fault is not None:
            faults[answer.fault] += 1
            texts.append(Answer("", answer.fault))
            continue
        text, wrapping = unwrap(answer, raw)
        taken.update(wrapping)
        texts.append(Answer(text))
    if taken:
        logger.info("taken off %d answers: %s", len(texts), _listed(taken))
    if faults:
        logger.warning("%d of %d answers can't be used: %s", faults.total(), len(texts), _listed(faults))
    return texts


def _read(answer: str, name: str) -> Answer:
    if not isinstance(answer, str):
        raise ValueError(
            f"{name} answered {answer!r:.80}, which is no text; it must return a text for each conversation"
        )
    if not _is_text(answer):
        return Answer("", "it is no valid Unicode text")
    text = without_reasoning(answer)
    fault = answer.fault if isinstance(answer, Answer) else None
    if fault is None and answer.strip() and not text:
        fault = ONLY_REASONING
    return Answer(text, fault)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file or tokenizer takes
        return False
    return True


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} times {name}" for name, count in counts.most_common())
