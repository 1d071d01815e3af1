"""A video model's own enhancement asks with its own words and is one method of an evaluation among others."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from collect.protocols import Rewriter
from collect.rewriters import EnhancerRewriter
from data_modules.records import Messages, Prompt

PROMPTS = [Prompt("1", "a cat"), Prompt("2", "a dog on a hill")]


class Model:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.asked: list[Messages] = []

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        self.asked += conversations
        return list(self.answers[: len(conversations)])


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    path = tmp_path / "system.txt"
    path.write_text("Be vivid.\n")
    return path


def test_it_asks_as_ltx_video_does_and_leaves_long_prompts_alone(instructions: Path) -> None:
    model = Model("A grey cat\nsits.")
    rewriter = EnhancerRewriter(model, instructions, user_turn="user_prompt: {prompt}", max_words=2)
    assert rewriter.rewrite(PROMPTS) == ["A grey cat sits.", "a dog on a hill"]
    assert model.asked == [
        [{"role": "system", "content": "Be vivid.\n"}, {"role": "user", "content": "user_prompt: a cat"}]
    ]


def test_what_a_model_thinks_is_no_part_of_its_answer_and_silence_leaves_the_prompt(instructions: Path) -> None:
    rewriter = EnhancerRewriter(Model("<think>\na cat?\n</think>\n\nA cat.", "<think>hm</think>"), instructions)
    assert rewriter.rewrite(PROMPTS) == ["A cat.", "a dog on a hill"]
    assert rewriter.fallbacks == 1


def test_worked_examples_go_before_the_prompt(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be vivid."},
        {"role": "user", "content": "a bird"},
        {"role": "assistant", "content": "A red bird."},
    ]
    (tmp_path / "turns.json").write_text(json.dumps(turns))
    model = Model("A cat.")
    EnhancerRewriter(model, tmp_path / "turns.json", 'for: "{prompt}"').rewrite(PROMPTS[:1])
    assert model.asked == [[*turns, {"role": "user", "content": 'for: "a cat"'}]]


def test_yaml_names_it_like_any_method(instructions: Path) -> None:
    parser = ArgumentParser()
    parser.add_argument("--methods", type=dict[str, Rewriter | None])
    flag = {
        "class_path": "collect.rewriters.EnhancerRewriter",
        "init_args": {
            "language_model": {
                "class_path": "collect.backends.TransformersLM",
                "init_args": {"pretrained": "Qwen/Qwen2.5-14B-Instruct", "max_new_tokens": 512},
            },
            "instructions": str(instructions),
        },
    }
    parsed = parser.parse_args([f"--methods={json.dumps({'raw': None, 'flag': flag})}"])
    assert parsed.methods["flag"].init_args.user_turn == "{prompt}"


@pytest.mark.parametrize(
    ("name", "text", "user_turn", "message"),
    [
        ("system.txt", None, "{prompt}", "does not exist; expected the system prompt"),
        ("system.txt", " \n", "{prompt}", "is empty"),
        ("turns.json", '{"role": "system"}', "{prompt}", "must be a list of messages"),
        ("turns.json", "[", "{prompt}", "is not JSON"),
        ("system.txt", "Be vivid.", "user:", "must have {prompt} where the prompt goes"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    tmp_path: Path, name: str, text: str | None, user_turn: str, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        EnhancerRewriter(Model(), tmp_path / name, user_turn)
