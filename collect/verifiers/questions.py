"""Judging by the answers to questions made from the raw prompt, whoever answers. F frames, H x W pixels."""

import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collect.backends.video import Video, read_video, video_fps
from collect.intent.items import Item, intent_items
from collect.protocols import Verdict
from data_modules import templates
from data_modules.records import Messages, Prompt

logger = logging.getLogger(__name__)

FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)

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
    """Read an answer to :func:`data_modules.templates.judge`, strictly.

    Returns:
        ``alignment``, the share of yes; ``rating``, the overall score of 1 to 5 mapped to [0, 1]; with a task,
        ``task``, whether the video obeys it. The words are the critique and what was answered with no.

    Raises:
        ValueError: saying what is wrong with the answer.
    """
    text = answer.strip()
    fenced = FENCED.fullmatch(text)
    try:
        values: Any = json.loads(fenced.group(1) if fenced else text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(values, dict) or values.keys() != {"answers", "score", "critique"}:
        raise ValueError("it is not an object of the keys answers, score and critique")
    answers, score, critique = values["answers"], values["score"], values["critique"]
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise ValueError(f"answers is not a list of {len(questions)}")
    said = [str(word).strip().lower() for word in answers]
    if not set(said) <= {"yes", "no"}:
        raise ValueError("answers are not all yes or no")
    if type(score) is not int or not 1 <= score <= 5:  # a bool is an int, too
        raise ValueError("score is not a whole number from 1 to 5")
    if not isinstance(critique, str) or not critique.strip():
        raise ValueError("critique is not a sentence")
    yes = [word == "yes" for word in said]
    wanted = yes[:-1] if has_task else yes
    scores = {"alignment": sum(wanted) / len(wanted), "rating": (score - 1) / 4}
    if has_task:
        scores["task"] = float(yes[-1])
    denied = [question for question, right in zip(questions, yes, strict=True) if not right]
    return Verdict(scores, " ".join([critique.strip(), *(f"{question} No." for question in denied)]))


class QuestionVerifier(ABC):
    """Judges videos by a vision-language model's answers to questions made from the raw prompt.

    An answer that is not as asked is shown to the model once more with what is wrong with it; if the second one is
    unusable too, the verdict is a failed one.

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
    def answer(self, conversations: Sequence[Messages], clips: Sequence[Clip]) -> list[str]:
        """Answer each conversation about the clip that belongs to its first turn."""

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
        for _ in range(2):
            rows = [row for row in range(len(prompts)) if row not in verdicts or verdicts[row].error]
            answers = self.answer([conversations[row] for row in rows], [clips[row] for row in rows]) if rows else []
            for row, answer in zip(rows, answers, strict=True):
                try:
                    verdicts[row] = parse_verdict(answer, questions[row], prompts[row].task is not None)
                except ValueError as fault:
                    verdicts[row] = Verdict.failed(
                        f"the answer can't be used: {fault}; it began {answer[:MOST_SHOWN]!r}"
                    )
                    conversations[row] = templates.judge_again(conversations[row], answer, str(fault))
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
