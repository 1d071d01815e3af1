"""Judging by the answers to questions made from the raw prompt, whoever answers. F frames, H x W pixels."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from collect.backends.json_objects import read_object
from collect.backends.reasoning import without_reasoning
from collect.backends.video import Video, read_video, video_fps
from collect.intent.items import Item, intent_items
from collect.protocols import Answer, Verdict
from data_modules import templates
from data_modules.records import Messages, Prompt

logger = logging.getLogger(__name__)

SCORE = re.compile(r"([1-5])(?:\.0+)?\s*(?:/\s*5|out of 5)?\.?")
FIRST_WORD = re.compile(r"\W*(?:\d+\W+)?([^\W\d_]+)(?!/)")
HEDGED = re.compile(
    r"\b(?:partial(?:ly)?|partly|somewhat|mostly|unclear|unsure|not sure|maybe|perhaps|yes and no)\b", re.I
)
SAID = {"yes": True, "y": True, "true": True, "\u662f": True, "no": False, "n": False, "false": False, "\u5426": False}
NO_CRITIQUE = {"", "n/a", "none", "nothing", "no issues", "nothing is wrong"}

MOST_SHOWN = 160  # characters of an unusable answer that its verdict quotes


@dataclass(frozen=True)
class Clip:
    """Frames sampled evenly from a video.

    Args:
        frames: ``(F, H, W, 3)``.
        indices: where each frame stood in the video.
        num_frames: of the video.
        fps: of the video.
    """

    frames: Video
    indices: tuple[int, ...]
    num_frames: int
    fps: float


def questions_about(prompt: Prompt) -> list[str]:
    """Ask after each thing the raw prompt asks for, yes or no; a task is asked after last."""
    items = intent_items(prompt.prompt)
    if any(item.kind == "camera" for item in items):
        items = [item for item in items if item.text != "camera"]  # it moves, it is not to be seen
    wanted = [_question(item) for item in items]
    rule = [] if prompt.task is None else [f"Does the video obey this rule: {prompt.task}"]
    return [*(wanted or [f'Does the video show "{prompt.prompt}"?']), *rule]


def parse_verdict(answer: str, questions: Sequence[str], has_task: bool) -> Verdict:
    """Read an answer to :func:`data_modules.templates.judge` as a person would; nothing is assumed in its place.

    Returns:
        ``alignment``, the share of yes; ``rating``, the overall score of 1 to 5 mapped to [0, 1]; with a task,
        ``task``, whether the video obeys it. The words are the critique and what was answered with no.

    Raises:
        ValueError: saying what is wrong with the answer.
    """
    yes, score, critique = read_object(answer, partial(_opinion, questions))
    wanted = yes[:-1] if has_task else yes
    scores = {"alignment": sum(wanted) / len(wanted), "rating": (score - 1) / 4}
    if has_task:
        scores["task"] = float(yes[-1])
    denied = [question for question, right in zip(questions, yes, strict=True) if not right]
    return Verdict(scores, " ".join([critique, *(f"{question} No." for question in denied)]).strip())


def _opinion(questions: Sequence[str], values: dict[str, Any]) -> tuple[list[bool], int, str]:
    """Answers, score and critique of an object."""
    if not {"answers", "score"} <= values.keys():
        raise ValueError("it is not an object of the keys answers, score and critique")
    yes = [_yes(word) for word in _each(values["answers"], questions)]
    score = SCORE.fullmatch(str(values["score"]).strip())
    if score is None or isinstance(values["score"], bool):
        raise ValueError("score is not a whole number from 1 to 5")
    critique = _words(values.get("critique", values.get("critiques")))
    perfect = all(yes) and score[1] == "5"
    if not critique and not perfect:
        raise ValueError("critique is not a sentence")
    return yes, int(score[1]), critique


def _each(answers: object, questions: Sequence[str]) -> list[object]:
    """One answer for each question, from a list, a text of them, or an object by their numbers or words."""
    if isinstance(answers, str):
        answers = re.split(r"[,;\n]+", answers.strip(" []"))
    if isinstance(answers, dict):
        numbered = {str(key).strip(" ().:"): value for key, value in answers.items()}
        numbers = [str(number) for number in range(1, len(questions) + 1)]
        by_words = {question.strip(): number for number, question in zip(numbers, questions, strict=True)}
        by_number = {by_words.get(str(key).strip(), str(key).strip(" ().:Qq")): value for key, value in answers.items()}
        if len(numbered) == len(questions) and by_number.keys() == set(numbers):
            answers = [by_number[number] for number in numbers]
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise ValueError(f"answers is not a list of {len(questions)}")
    return [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]


def _yes(answer: object) -> bool:
    if isinstance(answer, bool):
        return answer
    word = FIRST_WORD.match(answer) if isinstance(answer, str) else None
    said = SAID.get(word[1].casefold()) if word else None
    if said is None or HEDGED.search(str(answer)):
        raise ValueError("answers are not all yes or no")
    return said


def _words(critique: object) -> str:
    """A critique as one text; what says that there is none is none."""
    if isinstance(critique, list) and all(isinstance(part, str) for part in critique):
        critique = " ".join(part.strip() for part in critique)
    if critique is None:
        return ""
    if not isinstance(critique, str):
        raise ValueError("critique is not a sentence")
    return "" if critique.strip(" .").casefold() in NO_CRITIQUE else critique.strip()


class QuestionVerifier(ABC):
    """Judges videos by a vision-language model's answers to questions made from the raw prompt.

    An answer that is not as asked is shown to the model once more with what is wrong with it, and one that was cut is
    asked for once more with twice the tokens; if the second one is unusable too, the verdict is a failed one.

    Args:
        fps: frames sampled from each second of a video.
        max_frames: sampled from a whole video, at most.
        max_new_tokens: after which an answer is cut.
        name: under which verdicts are kept.

    Raises:
        ValueError: if a number is out of range.
    """

    ranked = True

    def __init__(self, fps: float, max_frames: int, max_new_tokens: int, name: str) -> None:
        if fps <= 0 or max_frames < 2 or max_new_tokens < 1:
            raise ValueError(
                f"fps must be above 0, max_frames at least 2 and max_new_tokens at least 1, "
                f"got {fps}, {max_frames} and {max_new_tokens}"
            )
        self.fps = fps
        self.max_frames = max_frames
        self.max_new_tokens = max_new_tokens
        self.name = name

    @abstractmethod
    def answer(self, conversations: Sequence[Messages], clips: Sequence[Clip], max_new_tokens: int) -> list[Answer]:
        """Answer each conversation about the clip that belongs to its first turn, in at most so many tokens."""

    def sample(self, path: Path) -> Clip:
        """Read a video and keep ``fps`` frames a second, evenly spaced, its first and last among them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no readable video.
        """
        video, fps = read_video(path), video_fps(path)
        count = min(max(2, round(len(video) / fps * self.fps)), self.max_frames, len(video))
        indices = np.linspace(0, len(video) - 1, count).round().astype(int)
        return Clip(video[indices], tuple(indices.tolist()), len(video), fps)

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge each video against its raw prompt, and its task where it has one.

        Raises:
            FileNotFoundError: if a video is missing.
            ValueError: naming the file, if it is no readable video.
        """
        clips = [self.sample(path) for path in videos]
        questions = [questions_about(prompt) for prompt in prompts]
        conversations = [templates.judge(p, asked) for p, asked in zip(prompts, questions, strict=True)]
        verdicts: dict[int, Verdict] = {}
        for room in (self.max_new_tokens, 2 * self.max_new_tokens):
            rows = [row for row in range(len(prompts)) if row not in verdicts or verdicts[row].error]
            asked = [conversations[row] for row in rows]
            answers = self.answer(asked, [clips[row] for row in rows], room) if rows else []
            for row, answer in zip(rows, answers, strict=True):
                try:
                    verdicts[row] = parse_verdict(answer, questions[row], prompts[row].task is not None)
                except ValueError as error:
                    fault = answer.fault or str(error)
                    verdicts[row] = Verdict.failed(
                        f"the answer can't be used: {fault}; it began {answer[:MOST_SHOWN]!r}"
                    )
                    if answer.fault is None:
                        shown = without_reasoning(answer)
                        conversations[row] = templates.judge_again(conversations[row], shown, fault)
        for row, verdict in verdicts.items():
            if verdict.error:
                logger.warning("%s failed twice on %s: %s", self.name, videos[row], verdict.error)
        return [verdicts[row] for row in range(len(prompts))]


def _question(item: Item) -> str:
    """Ask after an item in words that stay grammatical whatever the item's own are."""
    about = " ".join(item.about)
    match item.kind:
        case "quote":
            return f"Can the text {item.text} be read?"
        case "camera":
            return f'Does the camera move as asked: "{item.text}"?'
        case "negation":
            return f'Is this kept to: "{item.text}"?'
        case "colour":
            return f'Is the colour as asked: "{item.text} {about}"?' if about else f"Is anything {item.text}?"
        case "number":
            return f'Is the number as asked: "{item.text} {about}"?'
        case "relation":
            placed = " ".join([*reversed(item.about), item.text, *item.beside])
            return f'Is the place as asked: "{placed}"?'
        case _:
            return f'Is "{item.text}" seen or happening?'
