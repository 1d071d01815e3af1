"""Every chat message the project sends to a language model or trains one on.

Pure functions from texts to messages: what a model is trained with and what it is later called with cannot drift
apart. Every template ends in one short user turn, so that instruction-tuned models of any size follow it. Few-shot
templates put worked examples before it, each as an earlier turn of the user's and the assistant's answer to it, which
every chat template can show; what is trained and what is asked by default has none.
"""

import json
from collections.abc import Sequence
from typing import Literal

from data_modules.records import Message, Messages, Prompt

DeformStyle = Literal["short", "generic", "reordered", "long", "tags"]

CHOICE_LABELS: tuple[Literal["A"], Literal["B"]] = ("A", "B")
MODIFIER_KINDS = ("scene", "subject", "action", "atmosphere")

# What answers to extract and judge look like, for language models that can be held to it.
_PHRASES = {"type": "array", "items": {"type": "string"}}
EXTRACT_SCHEMA = {
    "type": "object",
    "properties": dict.fromkeys(MODIFIER_KINDS, _PHRASES),
    "required": list(MODIFIER_KINDS),
    "additionalProperties": False,
}
JUDGE_SCHEMA = {
    "type": "object",
    "properties": {
        "answers": {"type": "array", "items": {"type": "string", "enum": ["yes", "no"]}},
        "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
        "critique": {"type": "string"},
    },
    "required": ["answers", "score", "critique"],
    "additionalProperties": False,
}

_DEFORM: dict[str, str] = {
    "short": (
        "Ask for this video as a hurried user would: a few words, details left out, nothing added. "
        "Answer with the request only."
    ),
    "generic": (
        "Say what this video shows in one plain sentence of your own. Keep every detail, add none. "
        "Answer with the sentence only."
    ),
    "reordered": (
        "Say what this video shows in another order, last things first. Keep every detail, add none. "
        "Answer with the new text only."
    ),
    "long": (
        "Say what this video shows at length, one detail at a time, as a wordy person would. Keep every detail, add "
        "none. Answer with the new text only."
    ),
    "tags": "List the details of this video, separated by commas. Add none. Answer with the list only.",
}

_EXTRACT_EXAMPLES = (
    (
        "An elderly man in a straw hat waters tomato plants on a sunny balcony.",
        {
            "scene": ["sunny balcony"],
            "subject": ["elderly man in a straw hat", "tomato plants"],
            "action": ["watering plants"],
            "atmosphere": ["warm sunlight"],
        },
    ),
    (
        "Two cyclists race down a foggy mountain road while the camera follows them from behind.",
        {
            "scene": ["foggy mountain road"],
            "subject": ["two cyclists"],
            "action": ["racing downhill"],
            "atmosphere": ["fog", "camera following from behind"],
        },
    ),
)
# The second detail of these disagrees with its prompt, and the third says what is there already.
_MERGE_EXAMPLES = (
    (
        "a boy flies a kite",
        "tall grass bending in the wind",
        "a boy flies a kite above tall grass that bends in the wind",
    ),
    ("three white boats at night", "bright midday sun", "three white boats at night"),
    ("a cook slices onions in a small kitchen", "a kitchen", "a cook slices onions in a small kitchen"),
)
_DIRECT_EXAMPLES = (
    (
        "two foxes in the snow",
        "Two foxes with thick red fur trot side by side through fresh snow at the edge of a pine wood, their breath "
        "rising in the pale morning light.",
    ),
    (
        "a potter shapes a bowl",
        "A potter in a grey apron shapes a clay bowl on a spinning wheel, wet hands drawing the rim upwards, in a "
        "quiet workshop lit by one window.",
    ),
)


def _ask(instruction: str, **inputs: str) -> Messages:
    lines = [f"{name.replace('_', ' ').capitalize()}: {text}" for name, text in inputs.items()]
    return [{"role": "user", "content": "\n".join([instruction, *lines])}]


def _show(examples: Sequence[tuple[Messages, str]]) -> Messages:
    """Worked examples as earlier turns."""
    return [turn for asked, answer in examples for turn in (*asked, Message(role="assistant", content=answer))]


def extract(caption: str, few_shot: bool = False) -> Messages:
    """Ask for the parts of a caption as a JSON object of four lists of phrases, ``MODIFIER_KINDS``.

    Args:
        caption: a caption of the video model's training set.
        few_shot: whether worked examples go before.
    """
    earlier = _show([(extract(text), json.dumps(parts)) for text, parts in _EXTRACT_EXAMPLES]) if few_shot else []
    return earlier + _ask(
        "Read this video description and answer with JSON only: lists of short phrases under the keys scene, subject, "
        "action and atmosphere.",
        description=caption,
    )


def deform(caption: str, style: DeformStyle) -> Messages:
    """Ask for a caption's content in a form that the video model was not trained on.

    Args:
        caption: a caption of the video model's training set.
        style: ``short`` is a user's request and drops details; ``generic`` is a sentence in the language model's
            own style; ``reordered`` begins with what the caption ends with; ``long`` is over-long; ``tags`` is a list
            separated by commas.
    """
    return _ask(_DEFORM[style], description=caption)


def merge(prompt: str, modifier: str, few_shot: bool = False) -> Messages:
    """Ask for a prompt with one retrieved detail worked in; the prompt wins where the two disagree.

    Args:
        prompt: what the user asks for, perhaps with other details worked in before.
        modifier: the detail.
        few_shot: whether worked examples go before.
    """
    earlier = _show([(merge(text, detail), answer) for text, detail, answer in _MERGE_EXAMPLES]) if few_shot else []
    return earlier + _ask(
        "Work the detail into the video prompt. Where they disagree, the prompt wins. Answer with the new prompt only.",
        detail=modifier,
        prompt=prompt,
    )


def direct(prompt: str, few_shot: bool = False) -> Messages:
    """Ask for a better prompt by plain instruction, in whatever style the language model has.

    Args:
        prompt: what the user asks for.
        few_shot: whether worked examples go before.
    """
    earlier = _show([(direct(text), answer) for text, answer in _DIRECT_EXAMPLES]) if few_shot else []
    return earlier + _ask(
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


def choose(raw: Prompt, first: str, second: str) -> Messages:
    """Ask which of two rewrites the video model draws better; the answer is one of ``CHOICE_LABELS``.

    What a good rewrite is follows the published instruction (RAPO++, Table 3, https://arxiv.org/abs/2510.20206).

    Args:
        raw: what the user asks for.
        first: the rewrite shown as A.
        second: the rewrite shown as B.
    """
    rule = {} if raw.task is None else {"rule": raw.task}
    return _ask(
        "Choose the better rewrite of this text-to-video prompt: the one with plain, fitting details that keeps what "
        "the prompt asks for. Answer with A or B only.",
        **rule,
        prompt=raw.prompt,
        a=first,
        b=second,
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


def judge(raw: Prompt, questions: Sequence[str]) -> Messages:
    """Ask a vision-language model about a video that is shown with this turn.

    Args:
        raw: what the user asked for.
        questions: to be answered with yes or no.
    """
    rule = {} if raw.task is None else {"rule": raw.task}
    return _ask(
        "This video was made for the request below. Watch it and answer with one JSON object only, of three keys. "
        '"answers": a list of "yes" or "no", one for each question, in order. '
        '"score": a whole number from 1 (bad) to 5 (perfect) for how well the video shows the request and how real '
        'it looks. "critique": in one or two sentences, what the video shows wrongly or not at all.',
        request=raw.prompt,
        **rule,
        questions=" ".join(f"({number}) {question}" for number, question in enumerate(questions, 1)),
    )


def judge_again(conversation: Messages, answer: str, fault: str) -> Messages:
    """Ask once more after an answer to :func:`judge` that can't be used.

    Args:
        conversation: that was answered.
        answer: as it was given.
        fault: what is wrong with it.
    """
    complaint = f"That can't be used: {fault}. Answer the request above with the one JSON object only."
    return [*conversation, {"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]


def law_of_motion(task: str, motion: str) -> Messages:
    """Ask whether a video's motion obeys a physical rule.

    Args:
        task: the rule.
        motion: what was measured in the video, in words.
    """
    return _ask(
        "A video must obey the rule. Its motion was measured. Say in one or two sentences whether the motion obeys the "
        "rule and, if it does not, how it should move instead.",
        rule=task,
        measured_motion=motion,
    )
