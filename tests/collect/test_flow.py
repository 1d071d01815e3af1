"""Optical flow is a speedometer: known motions give known figures, whatever the resolution."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from collect.verifiers.flow import FlowVerifier, Motion, measure_motion
from collect.video import write_video
from data_modules.records import Prompt

HEIGHT, WIDTH, SIDE, FPS = 96, 160, 32, 8


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 4, width // 4)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


def move(path: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """A textured square at each (x, y) on a plain ground, ``(F, H, W, 3)``."""
    patch = texture(SIDE, SIDE)
    frames = []
    for x, y in path:
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        frame = cv2.warpAffine(patch, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_CONSTANT, borderValue=(128.0,))
        frames.append(np.repeat(frame[..., None], 3, -1))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def motion(path: Sequence[tuple[float, float]], interval: float = 0.5) -> Motion:
    return measure_motion(move(path), FPS, interval)


@pytest.mark.parametrize("speed", [1.0, 3.0, 6.0])
def test_speed_is_measured_in_frame_heights_per_second(speed: float) -> None:
    found = motion([(10 + speed * frame, 30) for frame in range(9)])
    assert found.speed == pytest.approx(speed * FPS / HEIGHT, rel=0.25)
    assert found.num_reversals == 0
    assert found.frozen == 0.0
    assert found.unevenness < 0.3


def test_faster_is_faster_and_bigger_frames_change_nothing() -> None:
    slow, fast = (move([(10 + v * frame, 30) for frame in range(9)]) for v in (2.0, 4.0))
    assert measure_motion(fast, FPS).speed > 1.5 * measure_motion(slow, FPS).speed
    large = np.stack([cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for frame in slow])
    assert measure_motion(large, FPS).speed == pytest.approx(measure_motion(slow, FPS).speed, rel=0.2)


def test_twice_the_frame_rate_is_twice_the_speed() -> None:
    video = move([(10 + 3.0 * frame, 30) for frame in range(9)])
    assert measure_motion(video, 16).speed == pytest.approx(2 * measure_motion(video, 8).speed, rel=1e-6)


def test_a_bounce_reverses() -> None:
    down_and_up = [(60.0, 10.0 + 4.0 * step) for step in (0, 1, 2, 3, 4, 3, 2, 1, 0)]
    assert motion(down_and_up).num_reversals == 1
    assert motion([*down_and_up, *down_and_up[1:]]).num_reversals == 3


def test_opposite_motions_do_not_cancel() -> None:
    right = move([(5 + 4.0 * frame, 10) for frame in range(9)]).astype(int)
    left = move([(120 - 4.0 * frame, 55) for frame in range(9)]).astype(int)
    both = (right + left - 128).clip(0, 255).astype(np.uint8)
    alone, together = measure_motion(right.astype(np.uint8), FPS), measure_motion(both, FPS)
    assert together.speed == pytest.approx(alone.speed, rel=0.25)
    assert together.magnitude > 1.5 * alone.magnitude
    assert together.num_reversals == 0


def test_a_freeze_is_the_share_of_the_time_nothing_moves() -> None:
    found = motion([(10 + 4.0 * min(frame, 4), 30) for frame in range(9)])
    assert found.frozen == pytest.approx(0.5)
    still = motion([(10, 30)] * 9)
    assert still == Motion(still.magnitude, 0.0, 0, 0.0, 0.0, 1.0)
    assert still.magnitude < 1e-3


def test_jerks_show() -> None:
    even = motion([(10 + 4.0 * frame, 30) for frame in range(9)])
    steps = [10.0, 10.0, 18.0, 18.0, 26.0, 26.0, 34.0, 34.0, 42.0]
    jerky = motion([(x, 30) for x in steps])
    assert jerky.jerk > 5 * even.jerk
    assert jerky.unevenness > 1.0 > even.unevenness


def test_long_clips_are_sampled_at_the_interval() -> None:
    slow = [(10 + 0.75 * frame, 30) for frame in range(65)]
    assert motion(slow, interval=0.5).speed == pytest.approx(0.75 * FPS / HEIGHT, rel=0.25)
    flicker = [(10.0 + 4 * (frame % 2), 30) for frame in range(65)]
    assert motion(flicker, interval=0.25).frozen == 1.0
    assert motion(flicker, interval=0.125).num_reversals == 63


def test_the_verifier_reads_files_and_never_ranks(tmp_path: Path) -> None:
    videos = {
        "moving": move([(10 + 4.0 * frame, 30) for frame in range(9)]),
        "still": move([(10, 30)] * 9),
        "bouncing": move([(60.0, 10.0 + 6.0 * abs(4 - frame)) for frame in range(9)]),
    }
    for name, video in videos.items():
        write_video(tmp_path / f"{name}.mp4", video, fps=FPS)
    verifier = FlowVerifier()
    assert not verifier.ranked
    prompt = Prompt("0", "a square")
    paths = [tmp_path / f"{name}.mp4" for name in videos]
    moving, still, bouncing = verifier.judge([prompt] * 3, paths)
    assert moving.scores["movement"] == 1.0
    assert moving.scores["smoothness"] > 0.6
    assert "moderate" in moving.critique
    assert "turns back" not in moving.critique
    assert still.scores["movement"] == 0.0
    assert still.critique == "Nothing moves."
    assert "turns back once" in bouncing.critique
    for verdict in (moving, still, bouncing):
        assert all(0.0 <= score <= 1.0 for score in verdict.scores.values())


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        FlowVerifier().judge([Prompt("0", "x")], [tmp_path / "none.mp4"])
    (tmp_path / "cut.mp4").write_bytes(b"half")
    with pytest.raises(ValueError, match="cut"):
        FlowVerifier().judge([Prompt("0", "x")], [tmp_path / "cut.mp4"])
    write_video(tmp_path / "one.mp4", move([(10, 30)]), fps=FPS)
    with pytest.raises(ValueError, match=r"one.mp4.*two frames"):
        FlowVerifier().judge([Prompt("0", "x")], [tmp_path / "one.mp4"])
    with pytest.raises(ValueError, match="interval"):
        FlowVerifier(interval=0.0)
