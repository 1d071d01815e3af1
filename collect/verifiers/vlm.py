"""Vision-language models that watch a video and answer questions about it. F frames, H x W pixels."""

import base64
import json
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import openai
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedModel

from collect.backends.language_models import chat_completion, greedy_settings
from collect.backends.video import Video, read_video, video_fps
from collect.intent.gate import Item, intent_items
from collect.protocols import Verdict
from data_modules import templates
from data_modules.conversation import harmless
from data_modules.records import Messages, Prompt

FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
MOST_SHOWN = 160  # characters of an unusable answer that its verdict quotes

logger = logging.getLogger(__name__)


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


class VLMVerifier(QuestionVerifier):
    """A vision-language model in this process, from any directory or id that transformers can load.

    Needs torchvision, which the extra ``vlm`` installs.

    Args:
        pretrained: Hugging Face id or directory of a model that takes videos, such as
            ``Qwen/Qwen2.5-VL-7B-Instruct``.
        batch_size: videos per forward pass.
        fps: frames sampled from each second of a video.
        max_frames: sampled from a whole video, at most.
        max_new_tokens: after which an answer is cut.
        device: where the model runs.
        dtype: precision of the weights.
        name: under which verdicts are kept.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if a number is out of range, the model takes no videos, or torchvision is missing.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int = 4,
        fps: float = 2.0,
        max_frames: int = 32,
        max_new_tokens: int = 512,
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        name: str = "vlm",
    ) -> None:
        super().__init__(fps, max_frames, max_new_tokens, name)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        try:
            processor = AutoProcessor.from_pretrained(pretrained)
            model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
                pretrained, dtype=getattr(torch, dtype)
            )
        except ImportError as error:
            raise ValueError(
                f"{pretrained!r} needs a package that is missing; install this project's extra vlm, which brings "
                f"torchvision ({error})"
            ) from error
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no vision-language model could be loaded from {pretrained!r}; give a directory, or the id of a model "
                f"that was downloaded before ({error})"
            ) from error
        if getattr(processor, "video_processor", None) is None or processor.chat_template is None:
            raise ValueError(
                f"{pretrained!r} takes no videos in a chat; use a model such as Qwen/Qwen2.5-VL-7B-Instruct, or "
                "VLMEndpointVerifier, which sends frames as images"
            )
        processor.tokenizer.padding_side = "left"
        model.generation_config = greedy_settings(model.generation_config, processor.tokenizer)
        marks = sorted((token.content for token in processor.tokenizer.added_tokens_decoder.values()), key=len)
        self.control = re.compile("|".join(map(re.escape, reversed(marks))) or "(?!)")
        self.processor = processor
        self.model = model.to(torch.device(device)).eval()
        self.batch_size = batch_size

    @torch.inference_mode()
    def answer(self, conversations: Sequence[Messages], clips: Sequence[Clip]) -> list[str]:
        """Answer in batches, each token the most likely one."""
        answers: list[str] = []
        for start in range(0, len(clips), self.batch_size):
            batch = slice(start, start + self.batch_size)
            inputs = self.encode(conversations[batch], clips[batch])
            generated = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
            )
            completions = generated[:, inputs["input_ids"].shape[1] :]
            answers.extend(self.processor.batch_decode(completions, skip_special_tokens=True))
        return answers

    def encode(self, conversations: Sequence[Messages], clips: Sequence[Clip]) -> BatchFeature:
        """Turn conversations about clips into the model's inputs, padded on the left."""
        return self.processor(
            text=[self._render(messages) for messages in conversations],
            videos=[clip.frames for clip in clips],
            video_metadata=[
                {"total_num_frames": clip.num_frames, "fps": clip.fps, "frames_indices": list(clip.indices)}
                for clip in clips
            ],
            do_sample_frames=False,  # they are sampled
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)

    def _render(self, messages: Messages) -> str:
        turns: list[dict[str, Any]] = [
            {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
            for turn in (harmless(message, self.control) for message in messages)
        ]
        turns[0]["content"] = [{"type": "video"}, *turns[0]["content"]]
        return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


class VLMEndpointVerifier(QuestionVerifier):
    """A vision-language model behind an OpenAI-compatible endpoint, which gets frames as images.

    Answers are asked for at temperature 0, which OpenAI's models that reason do not take. The most tokens of an answer
    go by either of their names, see :func:`~collect.backends.language_models.chat_completion`.

    The key is read from the environment variable ``OPENAI_API_KEY``; servers of one's own need none.

    Args:
        model: the name under which the endpoint serves the model.
        base_url: of the endpoint, for instance ``http://localhost:8000/v1``.
        num_parallel: requests under way at once.
        fps: frames sampled from each second of a video.
        max_frames: sampled from a whole video, at most.
        max_new_tokens: after which an answer is cut.
        timeout: seconds until a request is given up.
        max_retries: further tries of a request that the endpoint could not take or did not answer.
        name: under which verdicts are kept.

    Raises:
        ValueError: if a number is out of range.
    """

    JPEG_QUALITY: ClassVar[int] = 95  # of 100; below, artefacts of the coding could be taken for the video's own

    def __init__(
        self,
        model: str,
        base_url: str,
        num_parallel: int = 8,
        fps: float = 2.0,
        max_frames: int = 16,
        max_new_tokens: int = 512,
        timeout: float = 120.0,
        max_retries: int = 4,
        name: str = "vlm",
    ) -> None:
        super().__init__(fps, max_frames, max_new_tokens, name)
        if num_parallel < 1 or max_retries < 0 or timeout <= 0:
            raise ValueError(
                f"num_parallel must be at least 1, max_retries at least 0 and timeout above 0 seconds, "
                f"got {num_parallel}, {max_retries} and {timeout}"
            )
        self.model = model
        self.num_parallel = num_parallel
        self.client = openai.OpenAI(
            base_url=base_url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            timeout=timeout,
            max_retries=max_retries,
        )

    def answer(self, conversations: Sequence[Messages], clips: Sequence[Clip]) -> list[str]:
        """Ask the endpoint, several requests at once.

        A video or prompt that the endpoint refuses gets its words of refusal as the answer.

        Raises:
            ConnectionError: if the endpoint can't be reached, or has no such model.
        """
        with ThreadPoolExecutor(self.num_parallel) as pool:
            return list(pool.map(self._ask, conversations, clips))

    def _ask(self, messages: Messages, clip: Clip) -> str:
        first, *later = map(harmless, messages)
        apart = (clip.indices[-1] - clip.indices[0]) / (len(clip.indices) - 1 or 1) / clip.fps
        content = [
            {"type": "text", "text": f"Frames of the video, in order, {apart:.2f} seconds apart:"},
            *({"type": "image_url", "image_url": {"url": self._data_url(frame)}} for frame in clip.frames),
            {"type": "text", "text": first["content"]},
        ]
        turns: list[Any] = [{"role": first["role"], "content": content}, *later]
        try:
            completion = chat_completion(
                self.client, self.max_new_tokens, model=self.model, messages=turns, temperature=0.0, seed=0
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return str(error)
        except openai.OpenAIError as error:
            raise ConnectionError(
                f"{self.model} at {self.client.base_url} does not answer: {error}; is the server running, the model's "
                "name right and OPENAI_API_KEY set?"
            ) from error
        return completion.choices[0].message.content or ""

    def _data_url(self, frame: Video) -> str:
        _, coded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.JPEG_QUALITY])
        return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()


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
