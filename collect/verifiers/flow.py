"""Optical flow: how things move, whatever they are. F frames, H x W pixels.

Flow gates and criticises but never ranks: a still video would win every contest in smoothness.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from collect.protocols import Verdict
from collect.video import Video, read_video, video_fps
from data_modules.records import Prompt

ANALYSIS_HEIGHT = 128  # pixels; larger frames are shrunk to it
MIN_PAIRS = 6  # fewer samples say nothing about changes of speed
STILL = 0.4  # pixels at analysis height; what compression alone moves stays below
COHERENT = 0.5  # resultant over mean length, above which a pair has one direction
REVERSAL = -0.5  # cosine between successive directions
SLOW, FAST = 0.1, 0.6  # frame heights per second
JERKY = 1.0  # change of speed from pair to pair, relative to the mean speed


@dataclass(frozen=True)
class Motion:
    """How a video moves. Lengths are in frame heights, so that resolutions compare.

    Args:
        magnitude: mean length of all flow vectors, in heights per second; never their signed mean, in which
            opposite motions cancel.
        speed: the same of what moves, weighted by length, in heights per second.
        num_reversals: how often the whole motion turns back on itself.
        jerk: mean second difference of the speed, in heights per second cubed.
        unevenness: the same relative to the mean speed, without unit.
        frozen: share of pairs, in [0, 1], in which nothing moves.
    """

    magnitude: float
    speed: float
    num_reversals: int
    jerk: float
    unevenness: float
    frozen: float


def measure_motion(video: Video, fps: float, interval: float = 0.5) -> Motion:
    """Measure Farneback flow between frames sampled ``interval`` seconds apart.

    Clips too short for ``MIN_PAIRS`` pairs are sampled more closely, at most every frame.

    Args:
        video: ``(F, H, W, 3)``.
        fps: frames per second.
        interval: seconds.

    Raises:
        ValueError: if there are fewer than two frames.
    """
    if len(video) < 2:
        raise ValueError(f"motion needs at least two frames, got {len(video)}; render a longer video")
    step = max(1, min(round(interval * fps), (len(video) - 1) // MIN_PAIRS))
    frames = [_shrink(frame) for frame in video[::step]]
    height, seconds = frames[0].shape[0], step / fps
    flows = [_flow(*pair) / height for pair in itertools.pairwise(frames)]
    lengths = [np.linalg.norm(flow, axis=-1) for flow in flows]
    moving = [bool(np.quantile(length, 0.99) > STILL / height) for length in lengths]
    speeds = (
        np.array([(m**2).sum() / m.sum() if moves else 0.0 for m, moves in zip(lengths, moving, strict=True)]) / seconds
    )
    changes = np.abs(np.diff(speeds, n=2)) if len(speeds) > 2 else np.zeros(1)
    directions = [_direction(flow) for flow, moves in zip(flows, moving, strict=True) if moves]
    known = [direction for direction in directions if direction is not None]
    mean_speed = float(speeds.mean())
    return Motion(
        magnitude=float(np.mean(lengths)) / seconds,
        speed=float(speeds[moving].mean()) if any(moving) else 0.0,
        num_reversals=sum(float(a @ b) < REVERSAL for a, b in itertools.pairwise(known)),
        jerk=float(changes.mean()) / seconds**2,
        unevenness=float(changes.mean()) / mean_speed if mean_speed > 0 else 0.0,
        frozen=1.0 - sum(moving) / len(moving),
    )


class FlowVerifier:
    """Says how a video moves: ``movement``, the share of the time in which anything moves, and ``smoothness``.

    Smoothness is 1 for an even speed and halves when the speed changes by its own mean from pair to pair.

    Args:
        interval: seconds between sampled frames; short clips are sampled more closely.
    """

    name = "flow"
    ranked = False

    def __init__(self, interval: float = 0.5) -> None:
        if interval <= 0:
            raise ValueError(f"interval must be positive, got {interval} seconds")
        self.interval = interval

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge how each video moves; what its prompt asked for plays no part.

        Raises:
            FileNotFoundError: if a video is missing.
            ValueError: naming the file, if it is unreadable or has fewer than two frames.
        """
        verdicts = []
        for _, path in zip(prompts, videos, strict=True):
            try:
                motion = measure_motion(read_video(path), video_fps(path), self.interval)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            scores = {"movement": 1.0 - motion.frozen, "smoothness": 1.0 / (1.0 + motion.unevenness)}
            verdicts.append(Verdict(scores, describe(motion)))
        return verdicts


def describe(motion: Motion) -> str:
    """Say how a video moves."""
    if motion.frozen == 1.0:
        return "Nothing moves."
    pace = "slow" if motion.speed < SLOW else "fast" if motion.speed > FAST else "moderate"
    sentences = [f"The motion is {pace} ({motion.speed:.2f} frame heights per second)."]
    if motion.num_reversals:
        times = "once" if motion.num_reversals == 1 else f"{motion.num_reversals} times"
        sentences.append(f"It turns back {times}.")
    sentences.append("It is jerky." if motion.unevenness > JERKY else "It is even.")
    if motion.frozen:
        sentences.append(f"Nothing moves for {motion.frozen:.0%} of the time.")
    return " ".join(sentences)


def _shrink(frame: Video) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    if height > ANALYSIS_HEIGHT:
        size = (max(1, round(width * ANALYSIS_HEIGHT / height)), ANALYSIS_HEIGHT)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return grey.astype(np.uint8)


def _flow(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Displacements in pixels, ``(H, W, 2)``."""
    flow = np.zeros((*before.shape, 2), np.float32)
    return np.asarray(
        cv2.calcOpticalFlowFarneback(
            before, after, flow, pyr_scale=0.5, levels=5, winsize=15, iterations=5, poly_n=7, poly_sigma=1.5, flags=0
        )
    )


def _direction(flow: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Unit vector along which most of the motion goes, or ``None`` where motions oppose each other."""
    resultant = flow.sum((0, 1))
    length = float(np.linalg.norm(resultant))
    if length < COHERENT * float(np.linalg.norm(flow, axis=-1).sum()):
        return None
    return np.asarray(resultant / length)
