"""Optical flow: how things move, whatever they are. F frames, H x W pixels.

Flow gates and criticises but never ranks: a still video would win every contest in smoothness.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from collect.backends.answers import write
from collect.backends.video import Video, measure_each
from collect.protocols import LanguageModel, Verdict
from data_modules import templates
from data_modules.records import Prompt

ANALYSIS_HEIGHT = 128  # pixels; larger frames are shrunk to it
MIN_PAIRS = 6  # fewer samples say nothing about changes of speed
STILL = 0.4  # pixels at analysis height; what compression alone moves stays below
COHERENT = 0.5  # resultant over mean length, above which a pair has one direction
REVERSAL = -0.5  # cosine between successive directions
SLOW, FAST = 0.1, 0.6  # frame heights per second
JERKY = 1.0  # change of speed from pair to pair, relative to the mean speed
CHANGING = 0.5  # acceleration worth a word, per second and relative to the mean speed
FOLLOWED = 0.5  # share of the picture that a camera move carries along
MARGIN = 16  # pixels at analysis height from the border, where flow errs when the camera moves
UNEXPLAINED = 4.0  # levels of 255 by which a picture differs from the one before it, moved as the camera moved
BLUR = 0.15  # of the camera's shift: what flow errs by where everything moves
UNLIKE, ISOLATED = 0.5, 3.0  # frames have little in common; times the usual change from frame to frame
CONTRAST = 2.0  # levels of 255; differences far below are no difference


@dataclass(frozen=True)
class Motion:
    """How a video moves. Lengths are in frame heights, so that resolutions compare.

    Args:
        magnitude: mean length of all flow vectors, in heights per second; never their signed mean, in which
            opposite motions cancel.
        camera: how fast the whole picture shifts, turns or grows, in heights per second.
        speed: of what moves against the rest of the picture, weighted by length, in heights per second.
        acceleration: slope of that speed over time, in heights per second squared.
        headings: where it goes, one after the other: right, left, up or down.
        num_reversals: how often it turns back on itself.
        jerk: mean second difference of the speed, in heights per second cubed.
        unevenness: the same relative to the mean speed, without unit.
        frozen: share of pairs, in [0, 1], in which nothing moves.
        cuts: seconds at which another scene begins.
    """

    magnitude: float
    camera: float
    speed: float
    acceleration: float
    headings: tuple[str, ...]
    num_reversals: int
    jerk: float
    unevenness: float
    frozen: float
    cuts: tuple[float, ...]


@dataclass(frozen=True)
class _Step:
    """What happens between two frames; lengths in pixels at analysis height."""

    flow: NDArray[np.float32]
    camera: float
    objects: NDArray[np.float32]

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        return _lengths(self.objects)

    @cached_property
    def moves(self) -> bool:
        return bool(np.quantile(self.lengths, 0.99) > STILL)

    @cached_property
    def speed(self) -> float:
        return float((self.lengths**2).sum() / self.lengths.sum()) if self.moves else 0.0

    @cached_property
    def direction(self) -> NDArray[np.float32] | None:
        """Unit vector along which most of the motion goes, or ``None`` where there is none or motions oppose."""
        resultant = self.objects.sum((0, 1))
        length = float(np.linalg.norm(resultant))
        if not self.moves or length < COHERENT * float(self.lengths.sum()):
            return None
        return np.asarray(resultant / length)


def measure_motion(video: Video, fps: float, interval: float = 0.5) -> Motion:
    """Measure Farneback flow between frames sampled ``interval`` seconds apart, within each scene.

    Clips too short for ``MIN_PAIRS`` pairs are sampled more closely, at most every frame. The camera's motion is the
    similarity transform that most of the flow follows (RANSAC); what moves is what departs from it.

    Args:
        video: ``(F, H, W, 3)``.
        fps: frames per second.
        interval: seconds.

    Raises:
        ValueError: if there are fewer than two frames.
    """
    if len(video) < 2:
        raise ValueError(f"motion needs at least two frames, got {len(video)}; render a longer video")
    cuts = find_cuts(video)
    stride = max(1, min(round(interval * fps), (len(video) - 1) // MIN_PAIRS))
    stride = stride if _shots(len(video), cuts, stride) else 1
    shots = _shots(len(video), cuts, stride)
    height, seconds = min(ANALYSIS_HEIGHT, video.shape[1]), stride / fps
    runs = [[_step(*pair) for pair in itertools.pairwise([shrink(video[i]) for i in shot])] for shot in shots]
    steps = [step for run in runs for step in run]
    speeds = [np.array([step.speed for step in run]) / height / seconds for run in runs]
    changes = np.concatenate([np.abs(np.diff(run, n=2)) for run in speeds])
    change, mean_speed = float(changes.mean()) if len(changes) else 0.0, float(np.concatenate(speeds).mean())
    moving = [step.speed / height / seconds for step in steps if step.moves]
    directions = [[step.direction for step in run if step.direction is not None] for run in runs]
    headings = [_heading(direction) for run in directions for direction in run]
    return Motion(
        magnitude=float(np.mean([_lengths(step.flow).mean() for step in steps])) / height / seconds,
        camera=float(np.mean([step.camera for step in steps])) / height / seconds,
        speed=float(np.mean(moving)) if moving else 0.0,
        acceleration=float(np.polyfit(np.arange(len(moving)) * seconds, moving, 1)[0]) if len(moving) > 2 else 0.0,
        headings=_lasting(headings),
        num_reversals=sum(float(a @ b) < REVERSAL for run in directions for a, b in itertools.pairwise(run)),
        jerk=change / seconds**2,
        unevenness=change / mean_speed if mean_speed > 0 else 0.0,
        frozen=1.0 - sum(step.moves or step.camera > STILL for step in steps) / len(steps),
        cuts=tuple(cut / fps for cut in cuts),
    )


def find_cuts(video: Video) -> list[int]:
    """Find the frames that begin another scene: unlike the one before, where their neighbours are alike.

    Frames are compared by their mean squared difference relative to their own contrast: 0 if they are equal, about 1
    if they have nothing in common, whatever their brightness.
    """
    small = [cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for frame in video]
    centred = np.stack(small) - np.mean(small, axis=(1, 2, 3), keepdims=True)
    power = (centred**2).mean((1, 2, 3)) + CONTRAST**2
    unlike = ((centred[1:] - centred[:-1]) ** 2).mean((1, 2, 3)) / (power[1:] + power[:-1])
    return [int(i) + 1 for i in np.flatnonzero((unlike > UNLIKE) & (unlike > ISOLATED * np.median(unlike)))]


class FlowVerifier:
    """Says how a video moves: ``movement``, the share of the time in which anything moves, and ``smoothness``.

    Smoothness is 1 for an even speed and halves when the speed changes by its own mean from pair to pair. A third
    score, ``continuity``, is one over the number of scenes. For a prompt with a task, a law of motion, the words set
    what was measured against it.

    Args:
        interval: seconds between sampled frames; short clips are sampled more closely.
        language_model: says whether the measured motion obeys a prompt's task; without one, both stand side by side.
    """

    name = "flow"
    ranked = False

    def __init__(self, interval: float = 0.5, language_model: LanguageModel | None = None) -> None:
        if interval <= 0:
            raise ValueError(f"interval must be positive, got {interval} seconds")
        self.interval = interval
        self.language_model = language_model

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge how each video moves; of what its prompt asked for, the task alone plays a part, and in words only.

        Raises:
            FileNotFoundError: if a video is missing.
            ValueError: naming the file, if it is unreadable or has fewer than two frames.
        """
        motions = measure_each(partial(measure_motion, interval=self.interval), videos)
        critiques = self._critiques([prompt.task for prompt in prompts], [describe(motion) for motion in motions])
        return [
            Verdict(
                {
                    "movement": 1.0 - motion.frozen,
                    "smoothness": 1.0 / (1.0 + motion.unevenness),
                    "continuity": 1.0 / (1.0 + len(motion.cuts)),
                },
                critique,
            )
            for motion, critique in zip(motions, critiques, strict=True)
        ]

    def _critiques(self, tasks: Sequence[str | None], words: Sequence[str]) -> list[str]:
        """What was measured, then what it means for the task, where there is one."""
        bound = [(task, measured) for task, measured in zip(tasks, words, strict=True) if task is not None]
        if self.language_model is None:
            meant = [f"It must obey this rule: {task}" for task, _ in bound]
        else:
            laws = [templates.law_of_motion(*pair) for pair in bound]
            raws = [measured for _, measured in bound]
            meant = list(write(self.language_model, laws, raws, seed=0))
        meanings = iter(meant)
        return [
            measured if task is None else f"{measured} {next(meanings)}".strip()
            for task, measured in zip(tasks, words, strict=True)
        ]


def describe(motion: Motion) -> str:
    """Say how a video moves, with its figures."""
    sentences = []
    if motion.frozen == 1.0:
        sentences.append("Nothing moves.")
    elif motion.speed == 0.0:
        sentences.append(f"Only the camera moves ({motion.camera:.2f} frame heights per second).")
    else:
        pace = "slow" if motion.speed < SLOW else "fast" if motion.speed > FAST else "moderate"
        sentences.append(f"The motion is {pace} ({motion.speed:.2f} frame heights per second).")
        if motion.headings:
            sentences.append(f"It goes {', then '.join(motion.headings)}.")
        if abs(motion.acceleration) > CHANGING * motion.speed:
            change = "speeds up" if motion.acceleration > 0 else "slows down"
            sentences.append(f"It {change} (by {abs(motion.acceleration):.2f} frame heights per second squared).")
        if motion.num_reversals:
            times = "once" if motion.num_reversals == 1 else f"{motion.num_reversals} times"
            sentences.append(f"It turns back {times}.")
        sentences.append("It is jerky." if motion.unevenness > JERKY else "It is even.")
        if motion.camera * 2 > motion.speed:
            sentences.append(f"The camera moves, too ({motion.camera:.2f} frame heights per second).")
    if 0.0 < motion.frozen < 1.0:
        sentences.append(f"Nothing moves for {motion.frozen:.0%} of the time.")
    if motion.cuts:
        moments = ", ".join(f"{cut:.1f}" for cut in motion.cuts)
        sentences.append(f"It cuts to another scene at {moments} seconds.")
    return " ".join(sentences)


def _shots(num_frames: int, cuts: Sequence[int], stride: int) -> list[range]:
    """Sampled frames of each scene that has two or more."""
    shots = [range(begin, end, stride) for begin, end in itertools.pairwise([0, *cuts, num_frames])]
    return [shot for shot in shots if len(shot) > 1]


def _step(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> _Step:
    """Measure the flow between two frames and take the camera's share out of it."""
    flow = farneback(before, after)
    height, width = before.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    grid = (slice(height // 32, None, max(1, height // 16)), slice(width // 32, None, max(1, width // 16)))
    source = np.stack([xs[grid], ys[grid]], -1).reshape(-1, 2)
    target = source + flow[grid].reshape(-1, 2)
    transform, followers = cv2.estimateAffinePartial2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    if transform is None or followers.mean() < FOLLOWED:
        return _Step(flow, 0.0, flow)
    shift = np.stack([xs, ys, np.ones_like(xs)], -1) @ transform.T.astype(np.float32) - np.stack([xs, ys], -1)
    camera = float(_lengths(shift).mean())
    if camera < STILL:
        return _Step(flow, 0.0, flow)
    # What enters or leaves the picture has no flow, and what is beside it none to rely on. Plain surfaces have none,
    # either: only what the camera's motion leaves unlike moves by itself.
    reached = np.stack([xs, ys], -1) + shift
    inside = (reached >= MARGIN).all(-1) & (reached[..., 0] < width - MARGIN) & (reached[..., 1] < height - MARGIN)
    inside &= (xs >= MARGIN) & (ys >= MARGIN) & (xs < width - MARGIN) & (ys < height - MARGIN)
    carried = cv2.remap(after.astype(np.float32), reached[..., 0], reached[..., 1], cv2.INTER_LINEAR)
    unexplained = cv2.blur(np.abs(carried - before), (MARGIN, MARGIN)) > UNEXPLAINED
    departure = flow - shift
    own = inside & unexplained & (_lengths(departure) > max(STILL, BLUR * camera))
    return _Step(flow, camera, departure * own[..., None])


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lengths ``(H, W)`` of vectors ``(H, W, 2)``; several times as fast as numpy's norm over so short an axis."""
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _lasting(headings: Sequence[str]) -> tuple[str, ...]:
    """Headings that last for two pairs or more, one after the other; a single pair's may be the flow's error."""
    lasting = [heading for heading, run in itertools.groupby(headings) if len(list(run)) > 1]
    return tuple(heading for heading, _ in itertools.groupby(lasting))


def _heading(direction: NDArray[np.float32]) -> str:
    x, y = float(direction[0]), float(direction[1])
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def shrink(frame: Video) -> NDArray[np.uint8]:
    """Make a frame grey and at most ``ANALYSIS_HEIGHT`` pixels high."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    if height > ANALYSIS_HEIGHT:
        size = (max(1, round(width * ANALYSIS_HEIGHT / height)), ANALYSIS_HEIGHT)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return grey.astype(np.uint8)


def farneback(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure displacements from one frame to another, in pixels, ``(H, W, 2)``."""
    flow = np.zeros((*before.shape, 2), np.float32)
    return np.asarray(
        cv2.calcOpticalFlowFarneback(
            before, after, flow, pyr_scale=0.5, levels=5, winsize=15, iterations=5, poly_n=7, poly_sigma=1.5, flags=0
        )
    )
