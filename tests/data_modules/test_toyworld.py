"""The toy world is true: what is drawn can be read back, and what is written says what is drawn."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from collect.backends.video import read_video, write_video
from data_modules import toyworld
from data_modules.toyworld import (
    ALL_RIGHT,
    ATTRIBUTES,
    CAPTION_SHARES,
    FPS,
    NUM_FRAMES,
    SIZE,
    WORDINGS,
    Reading,
    World,
    all_worlds,
    asked,
    caption,
    critique,
    generic_prompt,
    mentions,
    read_by_colour,
    read_by_template,
    render,
    split_of,
    user_prompt,
    worlds,
)
from data_modules.toyworld.grammar import KEYWORDS
from data_modules.toyworld.render import Video, background

Reader = Callable[[Video], Reading]
READERS = [read_by_colour, read_by_template]
OBJECT = ("colour", "shape", "size", "motion")


def sample(number: int, seed: int = 0) -> list[World]:
    return random.Random(seed).sample(all_worlds(), number)


def right_share(reader: Reader, number: int) -> dict[str, float]:
    right: Counter[str] = Counter()
    for seed, world in enumerate(sample(number)):
        values = reader(render(world, seed)).values
        right.update(name for name, value in asdict(world).items() if values[name] == value)
    return {name: right[name] / number for name in ATTRIBUTES}


@pytest.mark.parametrize("reader", READERS)
def test_readers_are_right(reader: Reader) -> None:
    shares = right_share(reader, 500)
    assert min(shares.values()) >= 0.97, shares


@pytest.mark.parametrize("reader", READERS)
def test_readers_are_right_after_video_compression(reader: Reader, tmp_path: Path) -> None:
    right = 0
    chosen = sample(40, seed=1)
    for seed, world in enumerate(chosen):
        write_video(tmp_path / "video.mp4", render(world, seed), FPS, enlarge=4)
        values = reader(read_video(tmp_path / "video.mp4")).values
        right += sum(values[name] == value for name, value in asdict(world).items())
    assert right >= 0.97 * len(chosen) * len(ATTRIBUTES)


@pytest.mark.parametrize("reader", READERS)
def test_readers_see_nothing_in_noise_or_grey(reader: Reader) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    grey = np.full_like(noise, 128)
    for video in (noise, grey, np.zeros_like(noise), np.full_like(noise, 255)):
        reading = reader(video)
        assert [reading.values[name] for name in OBJECT] == [None] * 4
        assert reading.clarity == 0.0
    assert reader(noise).values == dict.fromkeys(ATTRIBUTES)


@pytest.mark.parametrize("reader", READERS)
def test_readers_see_only_the_place_where_nothing_is(reader: Reader) -> None:
    for scene in WORDINGS["scene"]:
        for light in WORDINGS["light"]:
            reading = reader(np.stack([background(scene, light)] * NUM_FRAMES))
            assert [reading.values[name] for name in OBJECT] == [None] * 4, (scene, light)
            assert (reading.values["scene"], reading.values["light"]) == (scene, light)


@pytest.mark.parametrize("reader", READERS)
def test_readers_take_any_resolution(reader: Reader) -> None:
    world = World("red", "ball", "large", "rolling", "beach", "day")
    large = np.stack([cv2.resize(frame, (128, 128), interpolation=cv2.INTER_NEAREST) for frame in render(world)])
    assert reader(large).values == asdict(world)
    with pytest.raises(ValueError, match="shape"):
        reader(large[..., 0])


def test_the_seed_moves_the_object_and_nothing_else() -> None:
    world = World("red", "ball", "large", "falling", "beach", "day")
    assert (render(world, 1) == render(world, 1)).all()
    assert (render(world, 1) != render(world, 2)).any()
    assert read_by_colour(render(world, 1)).values == read_by_colour(render(world, 2)).values


def test_splits_are_disjoint_and_complete() -> None:
    splits = [set(worlds(split)) for split in ("train", "val", "test")]
    assert set.union(*splits) == set(all_worlds())
    assert sum(map(len, splits)) == len(all_worlds()) == 960
    assert len(splits[0]) > 0.7 * 960
    assert min(len(splits[1]), len(splits[2])) > 0.05 * 960
    for attribute, values in WORDINGS.items():
        for split in splits:
            assert {asdict(world)[attribute] for world in split} == set(values)
    assert split_of(World("red", "ball", "small", "rolling", "hill", "day")) == "train"


def test_a_caption_says_exactly_its_world() -> None:
    rng = random.Random(0)
    for world in all_worlds():
        text = caption(world, rng)
        assert asked(text) == asdict(world)
        assert {name: len(found) for name, found in mentions(text).items()} == dict.fromkeys(ATTRIBUTES, 1)


def test_a_user_prompt_asks_for_two_to_four_attributes_of_its_world() -> None:
    rng = random.Random(0)
    numbers: Counter[int] = Counter()
    for world in all_worlds():
        wanted = asked(user_prompt(world, rng))
        assert wanted.items() <= asdict(world).items()
        numbers[len(wanted)] += 1
    assert set(numbers) == {2, 3, 4}


def test_the_generic_style_keeps_every_wording() -> None:
    rng = random.Random(0)
    for world in sample(50):
        wording = toyworld.choose_wording(world, rng, (1, 1, 1))
        found = {name: [text for _, text in texts] for name, texts in mentions(generic_prompt(wording)).items()}
        assert found == {name: [text] for name, text in wording.items()}


def test_captions_follow_the_shares() -> None:
    rng = random.Random(0)
    rank: Counter[int] = Counter()
    for _ in range(4):
        for world in all_worlds():
            for attribute, found in mentions(caption(world, rng, CAPTION_SHARES)).items():
                [(value, wording)] = found
                rank[WORDINGS[attribute][value].index(wording)] += 1
    shares = [rank[index] / rank.total() for index in range(3)]
    assert shares == pytest.approx(CAPTION_SHARES, abs=0.006)


def test_no_word_means_two_things() -> None:
    texts = [text for values in WORDINGS.values() for wordings in values.values() for text in wordings]
    assert len(set(texts)) == len(texts) == 3 * sum(map(len, WORDINGS.values()))
    assert {(attribute, value) for attribute, value, _ in KEYWORDS.values()} == {
        (attribute, value) for attribute, values in WORDINGS.items() for value in values
    }
    verb_forms = 3 * len(WORDINGS["motion"])
    assert len(KEYWORDS) == len(texts) + verb_forms


def test_the_first_mention_counts() -> None:
    assert asked("A TINY crimson ball, not a blue one") == {"size": "small", "colour": "red", "shape": "ball"}
    assert asked("!?") == asked("") == {}


def test_a_critique_names_what_is_wrong_then_what_is_right() -> None:
    values = {"colour": "green", "shape": "box", "size": "small", "motion": None, "scene": "hill", "light": None}
    reading = Reading(values, 1.0)
    assert critique({"motion": "falling", "colour": "blue", "size": "small", "shape": "box"}, reading) == (
        "The colour should be blue but looks green. The motion should be falling down but cannot be seen. "
        "The shape and size are right."
    )
    assert critique({"shape": "box", "colour": "blue"}, reading).endswith(" The shape is right.")
    assert critique({"shape": "box", "size": "small", "scene": "hill", "light": "day"}, reading).endswith(
        "cannot be seen. The shape, size and scene are right."
    )
    assert critique({"shape": "box"}, reading) == ALL_RIGHT
    with pytest.raises(ValueError, match="nothing was asked"):
        critique({}, reading)
    with pytest.raises(ValueError, match="purple"):
        critique({"colour": "purple"}, reading)
