"""Every chat message the project sends to a language model or trains one on.

Pure functions from texts to messages: what a model is trained with and what it is later called with cannot drift
apart. Every template is one short user turn, so that instruction-tuned models of any size follow it.
"""

from collections.abc import Sequence
from typing import Literal

from data_modules.records import Messages, Prompt

DeformStyle = Literal["short", "generic", "tags"]

MODIFIER_KINDS = ("scene", "subject", "action", "atmosphere")

_DEFORM: dict[str, str] = {
    "short": (
        "Ask for this video as a hurried user would: a few words, details left out, nothing added. "
        "Answer with the request only."
    ),
    "generic": (
        "Say what this video shows in one plain sentence of your own. Keep every detail, add none. "
        "Answer with the sentence only."
    ),
    "tags": "List the details of this video, separated by commas. Add none. Answer with the list only.",
}


def _ask(instruction: str, **inputs: str) -> Messages:
    lines = [f"{name.replace('_', ' ').capitalize()}: {text}" for name, text in inputs.items()]
    return [{"role": "user", "content": "\n".join([instruction, *lines])}]


def extract(caption: str) -> Messages:
    """Ask for the parts of a caption as a JSON object of four lists of phrases, ``MODIFIER_KINDS``."""
    return _ask(
        "Read this video description and answer with JSON only: lists of short phrases under the keys scene, subject, "
        "action and atmosphere.",
        description=caption,
    )


def deform(caption: str, style: DeformStyle) -> Messages:
    """Ask for a caption's content in a form that the video model was not trained on.

    Args:
        caption: a caption of the video model's training set.
        style: ``short`` is a user's request and drops details; ``generic`` is a sentence in the language model's
            own style; ``tags`` is a list separated by commas.
    """
    return _ask(_DEFORM[style], description=caption)


def merge(prompt: str, modifier: str) -> Messages:
    """Ask for a prompt with one retrieved detail worked in; the prompt wins where the two disagree."""
    return _ask(
        "Work the detail into the video prompt. Where they disagree, the prompt wins. Answer with the new prompt only.",
        detail=modifier,
        prompt=prompt,
    )


def direct(prompt: str) -> Messages:
    """Ask for a better prompt by plain instruction, in whatever style the language model has."""
    return _ask(
        "Improve this text-to-video prompt. Keep what it asks for and fill in subject, looks, motion, place and light. "
        "Answer with the prompt only.",
        prompt=prompt,
    )


def refactor(prompt: str, task: str | None = None) -> Messages:
    """Ask for a prompt in the form of the video model's training captions.

    The only template that the rewriters of stages 1 and 3 are trained and called with.

    Args:
        prompt: what the user asks for.
        task: a further rule that the video must obey.
    """
    rule = {} if task is None else {"rule": task}
    return _ask(
        "Write this prompt in the form of the video model's training captions. Keep what it asks for. "
        "Answer with the caption only.",
        **rule,
        prompt=prompt,
    )


def critique(
    raw: Prompt,
    current: str,
    critique: str,
    history: Sequence[tuple[str, float, str]] = (),
) -> Messages:
    """Ask for a better prompt in the light of what its video got wrong.

    Args:
        raw: what the user asked for.
        current: the prompt that was rendered.
        critique: what the video of ``current`` gets wrong, in words.
        history: earlier attempts as (prompt, score in [0, 1], critique); the caller bounds their number.
    """
    attempts = " / ".join(f"{text} ({score:.2f}: {why})" for text, score, why in history)
    rule = {} if raw.task is None else {"rule": raw.task}
    earlier = {"earlier_attempts": attempts} if attempts else {}
    return _ask(
        "Reword what the critique finds wrong, not as in earlier attempts, so that the video shows the request. "
        "Keep the rest word for word. Answer with the new prompt only.",
        request=raw.prompt,
        **rule,
        **earlier,
        current_prompt=current,
        critique=critique,
    )
