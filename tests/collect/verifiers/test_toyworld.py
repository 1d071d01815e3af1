"""The toy verifier scores what was asked for, and says what is wrong in words that name it."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from collect.backends.video import write_video
from collect.verifiers import ToyWorldVerifier
from data_modules.records import Prompt
from data_modules.toyworld import ALL_RIGHT, ATTRIBUTES, FPS, NUM_FRAMES, SIZE, WORDINGS, World, render

WORLD = World("blue", "box", "large", "falling", "hill", "day")
PROMPT = Prompt("0", "a big cobalt crate drops on a snowy slope")


def film(path: Path, world: World) -> Path:
    write_video(path, render(world), FPS, enlarge=4)
    return path


@pytest.mark.parametrize("reader", ["colour", "template"])
def test_a_right_video_scores_one(tmp_path: Path, reader: str) -> None:
    [verdict] = ToyWorldVerifier(reader).judge([PROMPT], [film(tmp_path / "a.mp4", WORLD)])  # type: ignore[arg-type]
    assert verdict.scores == {"alignment": 1.0, "clarity": 1.0}
    assert verdict.critique == ALL_RIGHT


@pytest.mark.parametrize("attribute", ["colour", "shape", "size", "motion", "scene"])
def test_one_wrong_attribute_costs_its_share_and_is_named(tmp_path: Path, attribute: str) -> None:
    other = next(value for value in WORDINGS[attribute] if value != asdict(WORLD)[attribute])
    video = film(tmp_path / "a.mp4", replace(WORLD, **{attribute: other}))
    [verdict] = ToyWorldVerifier().judge([PROMPT], [video])
    assert verdict.scores["alignment"] == pytest.approx(4 / 5)
    wanted, seen = WORDINGS[attribute][asdict(WORLD)[attribute]][0], WORDINGS[attribute][other][0]
    assert verdict.critique.startswith(f"The {attribute} should be {wanted} but looks {seen}. The ")
    assert verdict.critique.endswith(" are right.")


def test_what_was_not_asked_for_may_be_anything(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", replace(WORLD, light="night"))
    [verdict] = ToyWorldVerifier().judge([PROMPT], [video])
    assert verdict.scores["alignment"] == 1.0


def test_nothing_there_scores_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    write_video(tmp_path / "noise.mp4", noise, FPS, enlarge=4)
    [verdict] = ToyWorldVerifier().judge([PROMPT], [tmp_path / "noise.mp4"])
    assert verdict.scores == {"alignment": 0.0, "clarity": 0.0}
    assert verdict.critique.count("cannot be seen") == 5
    assert "right" not in verdict.critique


def test_a_prompt_from_another_world_is_refused_before_any_video_is_read(tmp_path: Path) -> None:
    foreign = Prompt("7", "an astronaut is riding a horse")
    with pytest.raises(ValueError, match="an astronaut is riding a horse"):
        ToyWorldVerifier().judge([PROMPT, foreign], [tmp_path / "none.mp4"] * 2)
    with pytest.raises(FileNotFoundError, match="none"):
        ToyWorldVerifier().judge([PROMPT], [tmp_path / "none.mp4"])
    with pytest.raises(ValueError, match="reader"):
        ToyWorldVerifier("guess")  # type: ignore[arg-type]


def test_it_ranks() -> None:
    assert ToyWorldVerifier().ranked
    assert set(asdict(WORLD)) == set(ATTRIBUTES)
