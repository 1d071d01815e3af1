"""Reading a toy-world video back, by two independent routes. F frames, H x W pixels, RGB.

``read_by_colour`` segments saturated pixels and measures the blob; verifiers use it. ``read_by_template``
compares every frame with drawings of every possible object; evaluation uses it, so that a rewriter cannot be
rewarded for the quirks of the reader it was mined with.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.toyworld.grammar import ATTRIBUTES, WORDINGS
from data_modules.toyworld.render import COLOURS, NIGHT_SHADE, RADII, SIZE, Video, background, object_mask

MIN_CHROMA = 85  # of 255; backgrounds stay below 70, objects above 120
MAX_PLACE_CHROMA = 50  # of 255; below it nothing of a pixel is the object
MAX_BACKGROUND_ERROR = 26.0  # mean absolute difference per channel, of 255
MIN_SEEN = 5  # frames, of 8


@dataclass(frozen=True)
class Reading:
    """What a video shows.

    Args:
        values: each attribute's value, or ``None`` where nothing can be made out.
        clarity: share of frames, in [0, 1], that show exactly one clean object.
    """

    values: dict[str, str | None]
    clarity: float


def _normalise(video: Video) -> Video:
    """Shrink frames of any size to the world's own resolution by area averaging."""
    if video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"a video must have shape (frames, height, width, 3), got {video.shape}")
    if video.shape[1:3] == (SIZE, SIZE):
        return video
    return np.stack([cv2.resize(f, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in video])


@dataclass(frozen=True)
class _Moments:
    """Where a blob is, and its (skewness, squareness, area); all bear blur better than counts of pixels do.

    The vertical skewness is -0.57 for an upright triangle and 0 for the others; the fourth angular moment,
    sign-flipped, is 0.43 for an upright square and 0 for a disc.
    """

    centre: tuple[float, float]
    shape: tuple[float, float, float]


def _moments(chroma: NDArray[np.int16], inside: NDArray[np.bool_]) -> _Moments:
    """Measure a blob from the saturation around it, ``(H, W)`` each."""
    near = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3))) > 0
    full = float(np.percentile(chroma[inside], 75))
    cover = np.clip((chroma - MAX_PLACE_CHROMA) / (full - MAX_PLACE_CHROMA), 0, 1) * near
    area = float(cover.sum())
    y, x = np.mgrid[: chroma.shape[0], : chroma.shape[1]]
    centre = float((cover * x).sum() / area), float((cover * y).sum() / area)
    offset = (x - centre[0]) + 1j * (y - centre[1])
    deviation = np.sqrt((cover * offset.imag**2).sum() / area)
    skewness = float((cover * offset.imag**3).sum() / area / deviation**3)
    squareness = float(-(cover * (offset**4).real).sum() / (cover * np.abs(offset) ** 4).sum())
    return _Moments(centre, (skewness, squareness, area))


def _motion(centres: NDArray[np.float64]) -> str:
    """Name the motion of a path, ``(F, 2)`` in pixels."""
    x, y = centres[:, 0], centres[:, 1]
    if np.ptp(x) > max(5.0, np.ptp(y)):
        return "rolling"
    if np.ptp(y) < 3.5:
        return "standing"
    if abs(y[-1] - y[0]) >= 0.6 * np.abs(np.diff(y)).sum():
        return "falling" if y[-1] > y[0] else "floating"
    return "bouncing"


def _read_place(video: Video, outside: NDArray[np.bool_]) -> tuple[str | None, str | None]:
    """Match what lies outside the object with every empty place, ``outside`` being ``(F, H, W)``."""
    weight = outside.sum(0)
    mean = (video * outside[..., None]).sum(0) / np.maximum(weight, 1)[..., None]
    seen = weight > 0
    errors = {
        place: np.abs(mean - background(*place))[seen].mean() for place in product(WORDINGS["scene"], WORDINGS["light"])
    }
    place = min(errors, key=lambda key: float(errors[key]))
    return place if errors[place] < MAX_BACKGROUND_ERROR else (None, None)


def read_by_colour(video: Video) -> Reading:
    """Read a video ``(F, H, W, 3)`` by segmenting its saturated pixels.

    Raises:
        ValueError: if the array is not a colour video.
    """
    video = _normalise(video)
    pixels = video.astype(np.int16)
    chroma = pixels.max(-1) - pixels.min(-1)
    names = list(COLOURS)
    palette = np.array(list(COLOURS.values()), np.float32)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    masks = np.zeros(chroma.shape, bool)
    moments, votes = [], []
    for index, frame in enumerate(chroma):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((frame > MIN_CHROMA).astype(np.uint8))
        if count < 2:
            continue
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        area = int(stats[largest, cv2.CC_STAT_AREA])
        inside = labels == largest
        if not 20 <= area <= 0.45 * SIZE**2 or area < 0.7 * (labels > 0).sum():
            continue
        colour = pixels[index][inside].astype(np.float32)
        colour /= np.linalg.norm(colour, axis=1, keepdims=True) + 1e-6
        counts = np.bincount((colour @ palette.T).argmax(1), minlength=len(names))
        if counts.max() < 0.7 * area:
            continue
        masks[index] = inside
        moments.append(_moments(frame, inside))
        votes.append(counts / area)
    values: dict[str, str | None] = dict.fromkeys(ATTRIBUTES)
    outside = ~np.stack([cv2.dilate(m.astype(np.uint8), np.ones((3, 3))) > 0 for m in masks])
    values["scene"], values["light"] = _read_place(video, outside & (chroma <= MIN_CHROMA))
    if len(moments) >= MIN_SEEN:
        values["colour"] = names[int(np.sum(votes, axis=0).argmax())]
        skewness, squareness, area = np.median([m.shape for m in moments], axis=0)
        shape = "pyramid" if skewness < -0.15 else "box" if squareness > 0.19 else "ball"
        values["shape"] = shape
        radius = float(np.sqrt(area / {"box": 4.0, "ball": np.pi, "pyramid": 2.0}[shape]))
        values["size"] = min(RADII, key=lambda name: abs(RADII[name] - radius))
        values["motion"] = _motion(np.array([m.centre for m in moments]))
    return Reading(values, len(moments) / len(video))


@cache
def _templates() -> tuple[list[tuple[str, str, str]], list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    names, patches, covers = [], [], []
    for colour, shape, size in product(COLOURS, WORDINGS["shape"], RADII):
        cover = object_mask(shape, RADII[size], (SIZE / 2, SIZE / 2))
        reach = int(RADII[size]) + 3
        window = slice(SIZE // 2 - reach, SIZE // 2 + reach)
        names.append((colour, shape, size))
        covers.append(cover[window, window])
        patches.append(np.array(COLOURS[colour], np.float32))
    return names, patches, covers


def read_by_template(video: Video) -> Reading:
    """Read a video ``(F, H, W, 3)`` by explaining every frame as a place with one drawn object.

    For each place, the empty place is subtracted by colour distance; for each possible object and position, the
    error left after painting it in is computed exactly by correlation. The explanation with the lowest total
    error wins.

    Raises:
        ValueError: if the array is not a colour video.
    """
    video = _normalise(video).astype(np.float32)
    values: dict[str, str | None] = dict.fromkeys(ATTRIBUTES)
    # The object covers under half of every pixel's time, so the temporal median is mostly the place; what stands
    # still is left out by scoring only the half of the pixels that fit best.
    median = np.median(video, axis=0)
    residuals = {
        place: np.abs(median - background(*place)).mean(-1) for place in product(WORDINGS["scene"], WORDINGS["light"])
    }
    place = min(residuals, key=lambda key: float(np.sort(residuals[key], axis=None)[: SIZE**2 * 6 // 10].mean()))
    if np.sort(residuals[place], axis=None)[: SIZE**2 * 6 // 10].mean() > MAX_BACKGROUND_ERROR:
        return Reading(values, 0.0)
    values["scene"], values["light"] = place
    shade = NIGHT_SHADE if place[1] == "night" else 1.0
    empty = background(*place).astype(np.float32)
    error_empty = ((video - empty) ** 2).sum(-1)  # (F, H, W)
    per_frame = np.empty((len(_templates()[0]), len(video)))
    spots = np.empty((len(_templates()[0]), len(video), 2))
    for index, (colour, cover) in enumerate(zip(_templates()[1], _templates()[2], strict=True)):
        solid = (cover > 0.5).astype(np.float32)
        error_object = ((video - colour * shade) ** 2).sum(-1)
        pad = solid.shape[0] // 2
        for frame in range(len(video)):
            change = cv2.copyMakeBorder(
                error_object[frame] - error_empty[frame], pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0.0
            )
            gain = cv2.matchTemplate(change, solid, cv2.TM_CCORR)
            low, _, spot, _ = cv2.minMaxLoc(gain)
            per_frame[index, frame] = low
            spots[index, frame] = spot
    total = per_frame.sum(1)
    winner = int(total.argmin())
    explained = -per_frame[winner] / np.maximum(error_empty.sum((1, 2)), 1.0)
    clear = explained > 0.5
    if clear.sum() >= MIN_SEEN:
        values["colour"], values["shape"], values["size"] = _templates()[0][winner]
        values["motion"] = _motion(spots[winner][clear])
    return Reading(values, float(clear.mean()))
