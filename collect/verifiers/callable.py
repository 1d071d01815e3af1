"""Any function of the user's as a verifier. F frames, H x W pixels.

For instance, in a file ``sharpness.py`` of the folder that ``python -m collect run`` is started from::

    import cv2


    def sharpness(prompt, frames):
        variance = min(cv2.Laplacian(frame, cv2.CV_64F).var() for frame in frames)
        return variance / (variance + 100), "" if variance > 100 else "The picture is blurred."

and in its config::

    verifiers:
      - class_path: collect.verifiers.CallableVerifier
        init_args: {function: sharpness.sharpness, name: sharpness}
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from collect.backends.checks import checked_opinion
from collect.backends.video import Video, read_video
from collect.protocols import Verdict
from data_modules.records import Prompt

Opinion = float | tuple[float, str]


class CallableVerifier:
    """Judges each video by a function, named in a config by its import path.

    The function gets the raw prompt (its ``prompt`` is the text, its ``task`` a further rule or ``None``) and the
    frames, ``(F, H, W, 3)`` of RGB in 8 bits. It returns a score in [0, 1], higher is better, or a score and a
    critique. Modules in the folder that ``python -m collect`` is started from are found.

    Args:
        function: for instance ``my_module.my_function``.
        name: under which verdicts are kept.
        ranked: whether the scores rank candidates, or only inform.
    """

    def __init__(self, function: Callable[[Prompt, Video], Opinion], name: str, ranked: bool = True) -> None:
        self.function = function
        self.name = name
        self.ranked = ranked

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Call the function once for each video.

        Raises:
            FileNotFoundError: if a video is missing.
            ValueError: if the function returns anything else than a score in [0, 1], alone or with a critique.
        """
        return [self._verdict(prompt, path) for prompt, path in zip(prompts, videos, strict=True)]

    def _verdict(self, prompt: Prompt, path: Path) -> Verdict:
        opinion = self.function(prompt, read_video(path))
        try:
            score, critique = checked_opinion(opinion)
        except ValueError as error:
            raise ValueError(
                f"{self.name} returned {opinion!r} for {path}; it must return a number in [0, 1], or such a number "
                "and a critique in words"
            ) from error
        return Verdict({"score": score}, critique)
