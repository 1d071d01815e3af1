"""Vision-language models behind an endpoint, which get frames as images."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import cv2

from collect.backends.endpoint import Endpoint, json_form
from collect.backends.video import Video
from collect.protocols import Answer
from collect.verifiers.questions import Clip, QuestionVerifier
from data_modules import templates
from data_modules.conversation import escape_special_tokens
from data_modules.records import Messages


class VLMEndpointVerifier(QuestionVerifier):
    """A vision-language model behind an OpenAI-compatible endpoint, which gets frames as images.

    Servers that know JSON schemas are held to the form of the verdict.
    Answers are asked for at temperature 0. What servers do not take, see
    :class:`~collect.backends.endpoint.Endpoint`. The key is read from the environment variable ``OPENAI_API_KEY``;
    servers of one's own need none.

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
        if num_parallel < 1:
            raise ValueError(f"num_parallel must be at least 1, got {num_parallel}")
        self.num_parallel = num_parallel
        self.endpoint = Endpoint(base_url, model, timeout, max_retries)

    def answer(self, conversations: Sequence[Messages], clips: Sequence[Clip], max_new_tokens: int) -> list[Answer]:
        """Ask the endpoint, several requests at once.

        Raises:
            EndpointError: if the endpoint can't be reached, has no such model, or refuses every video.
        """
        with self.endpoint.connected() as client, ThreadPoolExecutor(self.num_parallel) as pool:

            def ask(messages: Messages, clip: Clip) -> Answer:
                turns = self._turns(messages, clip)
                form = json_form(templates.JUDGE_SCHEMA)
                return self.endpoint.ask(client, turns, max_new_tokens, temperature=0.0, seed=0, response_format=form)

            return self.endpoint.checked(list(pool.map(ask, conversations, clips)))

    def _turns(self, messages: Messages, clip: Clip) -> list[Any]:
        first, *later = map(escape_special_tokens, messages)
        apart = (clip.indices[-1] - clip.indices[0]) / (len(clip.indices) - 1 or 1) / clip.fps
        content = [
            {"type": "text", "text": f"Frames of the video, in order, {apart:.2f} seconds apart:"},
            *({"type": "image_url", "image_url": {"url": self._data_url(frame)}} for frame in clip.frames),
            {"type": "text", "text": first["content"]},
        ]
        return [{"role": first["role"], "content": content}, *later]

    def _data_url(self, frame: Video) -> str:
        _, coded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.JPEG_QUALITY])
        return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()
