"""The toy world in pixels. F frames, H x W pixels, RGB."""

import random
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.toyworld.grammar import World

NUM_FRAMES = 8
SIZE = 32  # pixels, height and width
FPS = 8
GROUND = 27.0  # the line, in pixels from the top, that things stand on
SUPERSAMPLING = 4

Video = NDArray[np.uint8]

COLOURS = {"red": (225, 25, 35), "blue": (35, 60, 240), "green": (20, 175, 40), "yellow": (250, 215, 15)}
RADII = {"small": 5.0, "large": 8.5}  # pixels
_SKIES = {"hill": (214, 226, 236), "meadow": (196, 218, 240), "beach": (232, 222, 214), "street": (190, 186, 196)}
_GROUNDS = {"hill": (250, 250, 252), "meadow": (148, 178, 132), "beach": (226, 206, 164), "street": (112, 112, 118)}
_NIGHT_BACKGROUND = np.array([0.26, 0.28, 0.40])
NIGHT_SHADE = 0.80  # how bright an object is at night, relative to day


@cache
def background(scene: str, light: str) -> Video:
    """Paint the place without anything in it, ``(H, W, 3)``."""
    side = SIZE * SUPERSAMPLING
    image = np.empty((side, side, 3), np.float32)
    image[:] = _SKIES[scene]
    horizon = side * 18 // 32
    if scene == "hill":
        slope = np.array([[0, side * 25 // 32], [side, side * 11 // 32], [side, side], [0, side]])
        cv2.fillPoly(image, [slope.astype(np.int32)], _GROUNDS[scene])
    else:
        image[horizon:] = _GROUNDS[scene]
    if scene == "beach":
        image[side * 12 // 32 : horizon] = (150, 186, 206)
    if scene == "street":
        for left, top in ((1, 5), (12, 9), (22, 3)):
            left, top = left * SUPERSAMPLING, top * SUPERSAMPLING
            image[top:horizon, left : left + 8 * SUPERSAMPLING] = (150, 138, 132)
        image[side * 24 // 32 : side * 26 // 32, ::1] = (214, 214, 206)
    if light == "night":
        image *= _NIGHT_BACKGROUND
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA).round().astype(np.uint8)


def positions(motion: str, radius: float, rng: random.Random) -> NDArray[np.float64]:
    """Place the centre in each frame, ``(F, 2)`` as x and y in pixels; the jitter is what a seed varies."""
    time = np.linspace(0.0, 1.0, NUM_FRAMES)
    low, high = GROUND - radius, radius + 1.0
    x = np.full(NUM_FRAMES, SIZE / 2 + rng.uniform(-3.0, 3.0))
    y = np.full(NUM_FRAMES, low)
    if motion == "rolling":
        x = radius + rng.uniform(0.0, 1.5) + time * (SIZE - 2 * radius - 2.0)
    elif motion == "falling":
        y = high + (low - high) * time**2
    elif motion == "floating":
        y = low + (high - low) * time
    elif motion == "bouncing":
        y = low + (high - low) * 0.9 * np.abs(np.sin(2 * np.pi * time * 7 / 8))
    return np.stack([x, y], axis=1)


def object_mask(shape: str, radius: float, centre: tuple[float, float]) -> NDArray[np.float32]:
    """Cover each pixel by the share of it that the object fills, ``(H, W)`` in [0, 1]."""
    scale = SUPERSAMPLING
    side = SIZE * scale
    mask = np.zeros((side, side), np.float32)
    x, y, r = centre[0] * scale, centre[1] * scale, radius * scale
    if shape == "ball":
        cv2.circle(mask, (round(x), round(y)), round(r), 1.0, -1)
    else:
        corners = {
            "box": [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)],
            "pyramid": [(x, y - r), (x + r, y + r), (x - r, y + r)],
        }[shape]
        cv2.fillPoly(mask, [np.array(corners).round().astype(np.int32)], 1.0)
    return np.asarray(cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.float32)


def render(world: World, seed: int = 0) -> Video:
    """Draw a world as ``(F, H, W, 3)``; the seed moves the path by a few pixels."""
    rng = random.Random(f"{seed} {world}")
    radius = RADII[world.size]
    shade = NIGHT_SHADE if world.light == "night" else 1.0
    colour = np.array(COLOURS[world.colour], np.float32) * shade
    empty = background(world.scene, world.light).astype(np.float32)
    frames = []
    for x, y in positions(world.motion, radius, rng):
        cover = object_mask(world.shape, radius, (x, y))[..., None]
        frames.append(empty * (1 - cover) + colour * cover)
    return np.stack(frames).round().astype(np.uint8)
