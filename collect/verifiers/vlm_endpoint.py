"""Vision-language models behind an endpoint, which get frames as images."""

import base64
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import cv2
import openai

from collect.backends.openai_lm import chat_completion
from collect.backends.video import Video
from collect.verifiers.questions import Clip, QuestionVerifier
from data_modules.conversation import harmless
from data_modules.records import Messages


class VLMEndpointVerifier(QuestionVerifier):
    """A vision-language model behind an OpenAI-compatible endpoint, which gets frames as images.

    Answers are asked for at temperature 0, which OpenAI's models that reason do not take. The most tokens of an answer
    go by either of their names, see :func:`~collect.backends.openai_lm.chat_completion`.

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
