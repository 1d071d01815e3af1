"""Optical flow is a speedometer: known motions give known figures, whatever the resolution."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from collect.backends.video import write_video
from collect.verifiers.flow import FlowVerifier, Motion, describe, farneback, measure_motion, shrink
from data_modules import templates
from data_modules.records import Messages, Prompt

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


def test_the_published_scripts_signed_mean_cancels_opposite_motions_and_the_magnitude_does_not() -> None:
    right = move([(5 + 4.0 * frame, 10) for frame in range(9)]).astype(int)
    left = move([(120 - 4.0 * frame, 55) for frame in range(9)]).astype(int)
    both = (right + left - 128).clip(0, 255).astype(np.uint8)
    flow = farneback(shrink(both[0]), shrink(both[1]))
    signed, unsigned = np.linalg.norm(flow.mean((0, 1))), np.linalg.norm(flow, axis=-1).mean()
    assert signed < 0.1 * unsigned
    alone, together = measure_motion(right.astype(np.uint8), FPS), measure_motion(both, FPS)
    assert together.speed == pytest.approx(alone.speed, rel=0.25)
    assert together.magnitude > 1.5 * alone.magnitude
    assert together.num_reversals == 0


def test_a_freeze_is_the_share_of_the_time_nothing_moves() -> None:
    found = motion([(10 + 4.0 * min(frame, 4), 30) for frame in range(9)])
    assert found.frozen == pytest.approx(0.5)
    still = motion([(10, 30)] * 9)
    assert still == Motion(still.magnitude, 0.0, 0.0, 0.0, (), 0, 0.0, 0.0, 1.0, ())
    assert still.magnitude < 1e-3


def test_jerks_show() -> None:
    even = motion([(10 + 4.0 * frame, 30) for frame in range(9)])
    steps = [10.0, 10.0, 18.0, 18.0, 26.0, 26.0, 34.0, 34.0, 42.0]
    jerky = motion([(x, 30) for x in steps])
    assert jerky.jerk > 5 * even.jerk
    assert jerky.unevenness > 1.0 > even.unevenness


GROUND = cv2.GaussianBlur(texture(HEIGHT, 2 * WIDTH, seed=1), (0, 0), 3)


def over_ground(path: Sequence[tuple[float, float]], pan: float) -> NDArray[np.uint8]:
    """The square at each place of the picture, over a ground that the camera pans along by pixels a frame."""
    frames = []
    for index, (x, y) in enumerate(path):
        ground = cv2.warpAffine(GROUND, np.array([[1, 0, -pan * index], [0, 1, 0]], np.float32), (WIDTH, HEIGHT))
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        covered = cv2.warpAffine(np.ones((SIDE, SIDE), np.float32), shift, (WIDTH, HEIGHT))
        frame = ground * (1 - covered) + cv2.warpAffine(texture(SIDE, SIDE), shift, (WIDTH, HEIGHT)) * covered
        frames.append(np.repeat(frame[..., None], 3, -1))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def test_the_published_mean_flow_mixes_camera_with_object_motion_and_here_they_are_apart() -> None:
    still = [(64.0, 32.0)]
    pan = measure_motion(over_ground([(64 - 2.0 * frame, 32) for frame in range(9)], pan=2.0), FPS)
    assert pan.camera == pytest.approx(2.0 * FPS / HEIGHT, rel=0.15)  # the square is a part of the scene
    assert (pan.speed, pan.frozen, pan.headings) == (0.0, 0.0, ())
    walk = measure_motion(over_ground([(20 + 3.0 * frame, 32) for frame in range(9)], pan=0.0), FPS)
    assert walk.camera == 0.0
    assert walk.speed == pytest.approx(3.0 * FPS / HEIGHT, rel=0.25)
    followed = measure_motion(over_ground(still * 9, pan=2.0), FPS)
    assert followed.camera == pytest.approx(2.0 * FPS / HEIGHT, rel=0.15)
    assert followed.speed == pytest.approx(2.0 * FPS / HEIGHT, rel=0.25)  # against the ground that passes by
    assert followed.headings == ("right",)


def test_headings_and_acceleration_are_those_of_the_law_of_motion() -> None:
    falling = motion([(60.0, 4.0 + 0.5 * frame**2) for frame in range(9)])
    assert falling.headings == ("down",)
    # y = g t^2 / 2 with half a pixel a frame squared: g = 1 pixel a frame squared.
    assert falling.acceleration == pytest.approx(FPS**2 / HEIGHT, rel=0.3)
    thrown = motion([(60.0, 10.0 + 0.8 * (frame - 5) ** 2) for frame in range(11)])
    assert thrown.headings == ("up", "down")
    assert thrown.num_reversals == 1


def test_a_cut_is_found_and_no_motion_is_measured_across_it() -> None:
    first = over_ground([(20 + 2.0 * frame, 20) for frame in range(12)], pan=0.0)
    second = 255 - over_ground([(90 - 2.0 * frame, 40) for frame in range(12)], pan=0.0)[:, ::-1, ::-1]
    both = measure_motion(np.concatenate([first, second]), FPS)
    assert both.cuts == (12 / FPS,)
    assert both.speed == pytest.approx(2.0 * FPS / HEIGHT, rel=0.25)
    assert both.num_reversals == 0  # each goes one way: the second one's reversal is another scene's
    for alone in (first, second, np.concatenate([first, first[::-1]])):
        assert measure_motion(alone, FPS).cuts == ()
    assert "cuts to another scene at 1.5 seconds" in describe(both)


def test_a_cut_before_every_sampled_frame_leaves_the_frames_between() -> None:
    scenes = [
        np.repeat(texture(HEIGHT, WIDTH, seed)[None, ..., None], 4, 0).repeat(3, -1).clip(0, 255).astype(np.uint8)
        for seed in range(4)
    ]
    found = measure_motion(np.concatenate(scenes), fps=8, interval=0.5)  # every scene is as long as the interval
    assert found.cuts == (0.5, 1.0, 1.5)
    assert found.frozen == 1.0


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


class Physicist:
    """Says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Messages] = []

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        self.asked.extend(conversations)
        return [f"It breaks rule {number}." for number in range(len(conversations))]


def test_a_law_of_motion_is_set_against_the_figures_and_a_language_model_may_say_what_they_mean(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", move([(10 + 4.0 * frame, 30) for frame in range(9)]), fps=FPS)
    law = Prompt("0", "a square is let go", "Gravity pulls it down.")
    prompts, paths = [law, Prompt("1", "a square"), law], [tmp_path / "v.mp4"] * 3
    plain = [verdict.critique for verdict in FlowVerifier().judge(prompts, paths)]
    measured = plain[1]
    assert measured.startswith("The motion is moderate (0.3")  # 4 pixels of 96 in an eighth of a second: 0.33
    assert measured.endswith("frame heights per second). It goes right. It is even.")
    assert plain[0] == plain[2] == f"{measured} It must obey this rule: Gravity pulls it down."
    physicist = Physicist()
    phrased = [verdict.critique for verdict in FlowVerifier(language_model=physicist).judge(prompts, paths)]
    assert phrased == [f"{measured} It breaks rule 0.", measured, f"{measured} It breaks rule 1."]
    assert physicist.asked == [templates.law_of_motion("Gravity pulls it down.", measured)] * 2


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
