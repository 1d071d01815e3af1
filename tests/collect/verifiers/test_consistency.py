"""What hangs together scores high, and every way of breaking it scores lower and is said."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from collect.backends.video import write_video
from collect.verifiers import ConsistencyVerifier
from collect.verifiers.consistency import Consistency, describe, measure_consistency
from data_modules.records import Prompt

HEIGHT, WIDTH, SIDE, NUM_FRAMES, FPS = 96, 128, 32, 12, 8
Clip = NDArray[np.float32]


def texture(height: int, width: int, seed: int, cell: int) -> Clip:
    noise = np.random.default_rng(seed).uniform(0, 255, (height // cell, width // cell, 3)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)).clip(0, 255)


GROUND = cv2.GaussianBlur(texture(2 * HEIGHT, 2 * WIDTH, 1, 16), (0, 0), 2)


def moving(path: list[tuple[float, float]]) -> Clip:
    """A textured square at each (x, y) over a still ground."""
    frames = []
    for x, y in path:
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        covered = cv2.warpAffine(np.ones((SIDE, SIDE, 1), np.float32), shift, (WIDTH, HEIGHT))[..., None]
        square = cv2.warpAffine(texture(SIDE, SIDE, 2, 4), shift, (WIDTH, HEIGHT))
        frames.append(GROUND[:HEIGHT, :WIDTH] * (1 - covered) + square * covered)
    return np.stack(frames)


def seen_through(transforms: list[NDArray[np.float64]]) -> Clip:
    return np.stack([cv2.warpAffine(GROUND, transform, (WIDTH, HEIGHT)) for transform in transforms])


TIMES = range(NUM_FRAMES)
CLEAN = {
    "a moving thing": moving([(10 + 3.0 * t, 30) for t in TIMES]),
    "a bounce": moving([(40.0, 50.0 - 40.0 * np.sin(np.pi * t / (NUM_FRAMES - 1))) for t in TIMES]),
    "a pan": seen_through([np.array([[1, 0, -2.0 * t], [0, 1, -t]]) for t in TIMES]),
    "a zoom": seen_through([cv2.getRotationMatrix2D((WIDTH, HEIGHT), t, 1 + 0.02 * t) for t in TIMES]),
    "a fade": moving([(10 + 2.0 * t, 30) for t in TIMES]) * np.linspace(1, 0.5, NUM_FRAMES)[:, None, None, None],
}


def flickering(clip: Clip, strength: float = 12.0) -> Clip:
    return clip + np.random.default_rng(0).normal(0, strength, (len(clip), 1, 1, 1))


def noisy(clip: Clip, strength: float = 12.0) -> Clip:
    return clip + np.random.default_rng(0).normal(0, strength, clip.shape)


def shuffled(clip: Clip) -> Clip:
    return clip[np.random.default_rng(3).permutation(len(clip))]


def morphing(clip: Clip, strength: float = 3.0) -> Clip:
    """Shapes that wobble by some pixels, in another way in every frame."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    frames = []
    for frame in clip:
        wobble = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH, 2)).astype(np.float32), (0, 0), 6)
        wobble *= strength / wobble.std()
        bent = cv2.remap(frame.astype(np.float32), xs + wobble[..., 0], ys + wobble[..., 1], cv2.INTER_LINEAR)
        frames.append(bent)
    return np.stack(frames)


def film(path: Path, clip: Clip) -> Path:
    write_video(path, clip.round().clip(0, 255).astype(np.uint8), FPS)
    return path


def judge(folder: Path, clips: dict[str, Clip]) -> dict[str, tuple[float, str]]:
    """Score and words for each clip, through files and in one batch."""
    paths = [film(folder / f"{index}.mp4", clip) for index, clip in enumerate(clips.values())]
    verdicts = ConsistencyVerifier().judge([Prompt("0", "x")] * len(paths), paths)
    return {name: (v.scores["consistency"], v.critique) for name, v in zip(clips, verdicts, strict=True)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, str]]:
    return judge(tmp_path_factory.mktemp("clean"), CLEAN)


def test_clean_clips_score_above_a_half(clean: dict[str, tuple[float, str]]) -> None:
    assert all(0.5 < score <= 1.0 for score, _ in clean.values()), clean
    assert clean["a pan"][1] == "Every frame follows from the one before."


@pytest.mark.parametrize(
    ("corrupt", "words"),
    [
        (flickering, "The picture flickers"),
        (noisy, "no motion explains"),
        (shuffled, "no motion explains"),
        (morphing, "no motion explains"),
    ],
)
def test_corrupted_clips_score_below_every_clean_one(
    clean: dict[str, tuple[float, str]], tmp_path: Path, corrupt: Callable[[Clip], Clip], words: str
) -> None:
    broken = judge(tmp_path, {name: corrupt(clip) for name, clip in CLEAN.items()})
    lowest = min(score for score, _ in clean.values())
    for name, (score, critique) in broken.items():
        assert 0.0 <= score < min(0.5, lowest), (name, score)
        assert words in critique, name


@pytest.mark.parametrize("corrupt", [flickering, noisy, morphing])
def test_more_of_a_fault_scores_less(tmp_path: Path, corrupt: Callable[[Clip, float], Clip]) -> None:
    scores = [score for score, _ in judge(tmp_path, {str(s): corrupt(CLEAN["a pan"], s) for s in (0.5, 2, 8)}).values()]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 0.3


def test_the_score_is_a_half_where_it_was_calibrated_to_be() -> None:
    assert Consistency(warped_error=5.0, worst=0.0, flicker=0.0).coherence == 0.5
    assert Consistency(warped_error=0.0, worst=0.0, flicker=4.0).steadiness == 0.5


def test_a_still_video_is_perfect_which_is_why_it_does_not_rank() -> None:
    still = np.repeat(GROUND[None, :HEIGHT, :WIDTH], 5, 0).astype(np.uint8)
    found = measure_consistency(still, FPS)
    assert found.coherence * found.steadiness == pytest.approx(1.0, abs=1e-4)
    assert not ConsistencyVerifier().ranked
    assert ConsistencyVerifier(ranked=True).ranked


def test_the_worst_moment_is_named() -> None:
    clip = CLEAN["a pan"].copy()
    clip[6] = noisy(clip, 60.0)[6]
    found = measure_consistency(clip.round().clip(0, 255).astype(np.uint8), FPS)
    assert found.worst in (6 / FPS, 7 / FPS)  # into the broken frame, or out of it
    assert f"most at {found.worst:.1f} seconds" in describe(found)


def test_bad_input_is_named(tmp_path: Path) -> None:
    prompt = Prompt("0", "x")
    with pytest.raises(FileNotFoundError, match="none"):
        ConsistencyVerifier().judge([prompt], [tmp_path / "none.mp4"])
    with pytest.raises(ValueError, match=r"two\.mp4: consistency needs at least three frames, got 2"):
        ConsistencyVerifier().judge([prompt], [film(tmp_path / "two.mp4", CLEAN["a pan"][:2])])
