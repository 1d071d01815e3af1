"""Variety is a number of distinct words, whatever the number of prompts and the length of rewrites."""

import random

import pytest

from collect.evaluation.variety import added_words, variety

COLOURS = ["red", "blue", "green", "yellow", "purple", "orange", "brown", "pink", "white", "black"]


def test_only_what_a_rewrite_adds_counts() -> None:
    assert added_words("a dog runs", "The dogs run across a snowy field, a wide field.") == [
        *("snowy", "field", "wide", "field")
    ]
    assert added_words("a dog", "a dog") == []


def test_one_and_the_same_detail_is_no_variety() -> None:
    assert variety([("a ball", "a red ball")] * 100) == pytest.approx(1.0)
    assert variety([("a ball", "a red ball")] * 99) is None


def test_all_words_drawn_are_all_words_there_are() -> None:
    pairs = [("a ball", f"a {colour} ball") for colour in COLOURS] * 10
    assert variety(pairs) == pytest.approx(10.0)


def test_it_is_the_mean_over_draws() -> None:
    rng = random.Random(0)
    words = [word for index, word in enumerate(COLOURS) for _ in range(3 * index + 1)]
    draws = [len(set(rng.sample(words, 20))) for _ in range(20_000)]
    pairs = [("a ball", f"a {word} ball") for word in words]
    assert variety(pairs, 20) == pytest.approx(sum(draws) / len(draws), abs=0.05)


def test_more_prompts_of_one_kind_are_not_more_varied() -> None:
    few, many = ([("a ball", f"a {COLOURS[i % 4]} ball") for i in range(n)] for n in (200, 2000))
    assert variety(few) == pytest.approx(variety(many), abs=0.01)
