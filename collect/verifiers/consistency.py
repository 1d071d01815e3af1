"""Temporal consistency: whether each frame follows from the one before. F frames, H x W pixels.

Like optical flow it does not rank unless told to: no video is as consistent as a still one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from collect.backends.video import Video, measure_each
from collect.protocols import Verdict
from collect.verifiers.flow import farneback, shrink
from data_modules.records import Prompt

# Where each part of the score is a half, in levels of 255. Calibrated on rendered clips (pans, zooms, turns, moving and
# bouncing objects, fades), whose errors are 0 to 4.5 and whose flicker is below 1, and on the same clips corrupted:
# noise of 12 levels (8 to 11), wobbling and melting shapes (9 to 16), shuffled frames (6 to 25), and flickering by 12
# levels (a flicker of 18).
HALF_ERROR = 5.0
HALF_FLICKER = 4.0
WORTH_SAYING = 0.8  # parts of the score below it are put into words


@dataclass(frozen=True)
class Consistency:
    """How well each frame follows from the one before, in levels of 255.

    Args:
        warped_error: mean difference between each frame and the next one, brought back along the flow between them;
            the common change of brightness does not count (Lai et al. 2018, Eq. 6, https://arxiv.org/abs/1808.00449,
            without its mask of what gets hidden, which would excuse whatever flow can't follow).
        worst: seconds at which that is largest.
        flicker: mean second difference of the brightness; a steady fade has none.
    """

    warped_error: float
    worst: float
    flicker: float

    @property
    def steadiness(self) -> float:
        """The part of the score that flicker lowers, in [0, 1]."""
        return 1.0 / (1.0 + (self.flicker / HALF_FLICKER) ** 2)

    @property
    def coherence(self) -> float:
        """The part of the score that the warped error lowers, in [0, 1]."""
        return 1.0 / (1.0 + (self.warped_error / HALF_ERROR) ** 2)


def measure_consistency(video: Video, fps: float) -> Consistency:
    """Follow the flow from every frame to the next, at the height that motion is measured at.

    Args:
        video: ``(F, H, W, 3)``.
        fps: frames per second.

    Raises:
        ValueError: if there are fewer than three frames.
    """
    if len(video) < 3:
        raise ValueError(f"consistency needs at least three frames, got {len(video)}; render a longer video")
    frames = [shrink(frame) for frame in video]
    errors = [_warped_error(*pair) for pair in itertools.pairwise(frames)]
    brightness = np.array([frame.mean() for frame in frames])
    return Consistency(
        warped_error=float(np.mean(errors)),
        worst=(int(np.argmax(errors)) + 1) / fps,
        flicker=float(np.abs(np.diff(brightness, n=2)).mean()),
    )


class ConsistencyVerifier:
    """Scores ``consistency``: 1 if every frame follows from the one before, lower with flicker and unexplained change.

    What is finer than a 128th of the frame's height is not seen, and what moves by more than a tenth of it from one
    frame to the next is too fast for the flow and counts as unexplained: compare videos of one frame rate.

    Args:
        ranked: whether the score ranks candidates; it favours videos in which little happens.
    """

    name = "consistency"

    def __init__(self, ranked: bool = False) -> None:
        self.ranked = ranked

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge each video by itself; what its prompt asked for plays no part.

        Raises:
            FileNotFoundError: if a video is missing.
            ValueError: naming the file, if it is unreadable or has fewer than three frames.
        """
        return [
            Verdict({"consistency": found.coherence * found.steadiness}, describe(found))
            for _, found in zip(prompts, measure_each(measure_consistency, videos), strict=True)
        ]


def describe(found: Consistency) -> str:
    """Say what does not follow, with its figures."""
    sentences = []
    if found.steadiness < WORTH_SAYING:
        sentences.append(f"The picture flickers (its brightness jumps by {found.flicker:.1f} levels of 255).")
    if found.coherence < WORTH_SAYING:
        sentences.append(
            f"Things change in ways that no motion explains (by {found.warped_error:.1f} levels of 255, most at "
            f"{found.worst:.1f} seconds): noise, melting shapes or a broken course."
        )
    return " ".join(sentences) or "Every frame follows from the one before."


def _warped_error(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    flow = farneback(before, after)
    height, width = before.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    reached_x, reached_y = xs + flow[..., 0], ys + flow[..., 1]
    inside = (reached_x >= 0) & (reached_x <= width - 1) & (reached_y >= 0) & (reached_y <= height - 1)
    brought_back = cv2.remap(after.astype(np.float32), reached_x, reached_y, cv2.INTER_LINEAR)
    if not inside.any():
        return 255.0
    difference = (brought_back - before)[inside]
    return float(np.abs(difference - np.median(difference)).mean())
