"""Configs that no one writes are refused at once."""

import pytest
import yaml

from data_modules.config_tree import load_tree, require_tree

BOMB = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {b: *a}", "nested more than 60 levels deep, or contains itself"),
        ("a: &a [*a, *a]", "contains itself"),
        (BOMB, "has more than 100000 parts; remove anchors of anchors"),
        ("[" * 100 + "]" * 100, "nested more than 60"),
        ("[" * 5000 + "]" * 5000, "nested more than 60"),
    ],
)
def test_anchors_that_multiply_and_cycles_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tree(yaml.safe_load, text)


def test_anchors_that_people_write_are_kept() -> None:
    config = yaml.safe_load("a: &a {b: 1}\nc: [*a, *a]")
    assert require_tree(config) == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
