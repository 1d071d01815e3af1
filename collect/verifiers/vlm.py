"""Vision-language models in this process, which watch a whole clip."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    PreTrainedModel,
    StoppingCriteriaList,
)

from collect.backends import generation
from collect.backends.reasoning import begun_in
from collect.backends.resident import greedy_settings
from collect.protocols import Answer
from collect.verifiers.questions import Clip, QuestionVerifier
from data_modules.conversation import escape_special_tokens
from data_modules.records import Messages


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
    def answer(self, conversations: Sequence[Messages], clips: Sequence[Clip], max_new_tokens: int) -> list[Answer]:
        """Answer in batches, each token the most likely one."""
        answers: list[Answer] = []
        for start in range(0, len(clips), self.batch_size):
            batch = slice(start, start + self.batch_size)
            inputs = self.encode(conversations[batch], clips[batch])
            length = inputs["input_ids"].shape[1]
            loops = generation.Loops(length, self.processor.tokenizer.pad_token_id)
            generated = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([loops]),
                tokenizer=self.processor.tokenizer,  # a model's stop strings need it
            )
            answers += generation.read(
                generated[:, length:],
                max_new_tokens,
                loops,
                self.model.generation_config,
                self.processor.tokenizer,
                begun_in(self._render(conversations[start])),
            )
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
            for turn in (escape_special_tokens(message, self.control) for message in messages)
        ]
        turns[0]["content"] = [{"type": "video"}, *turns[0]["content"]]
        return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
