"""Stage-1 pairs: genuine captions as answers, prompts that say no more than they do, splits that share nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, get_args

import pytest

from collect.backends.transformers_lm import TransformersLM
from collect.examples.pairs import pairs
from collect.intent.gate import IntentGate
from data_modules import templates
from data_modules.records import Caption, Messages, Rewrite, read_records, write_records
from data_modules.toyworld import asked
from data_modules.toyworld.__main__ import write


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captions")
    write(root, num_captions=40, num_train_prompts=1, num_val_prompts=1, num_test_prompts=1)
    return root / "captions.jsonl"


@pytest.fixture(scope="module")
def gate() -> IntentGate:
    return IntentGate()


class Parrot:
    """Answers every deformation with the same words, or with the caption itself."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        return [
            self.answer if self.answer is not None else messages[0]["content"].split("Description: ")[1]
            for messages in conversations
        ]


def test_pairs_put_captions_back_in_form(captions: Path, gate: IntentGate, tmp_path: Path) -> None:
    language_model = TransformersLM("models/toy/lm", batch_size=64, max_new_tokens=96, temperature=0.5)
    pairs(captions, tmp_path, language_model, gate)
    genuine = {caption.caption for caption in read_records(captions, Caption)}
    splits = {split: read_records(tmp_path / f"{split}.jsonl", Rewrite) for split in ("train", "val")}
    for records in splits.values():
        for record in records:
            caption = record.completion[0]["content"]
            prompt = record.prompt[0]["content"].split("Prompt: ")[1]
            assert caption in genuine
            assert asked(prompt).items() <= asked(caption).items()
    answers = {split: {record.completion[0]["content"] for record in records} for split, records in splits.items()}
    prompts = {split: {record.prompt[0]["content"] for record in records} for split, records in splits.items()}
    assert not answers["train"] & answers["val"]
    assert not prompts["train"] & prompts["val"]
    assert sum(map(len, splits.values())) >= 0.8 * 5 * 40
    assert len(answers["val"]) <= 4  # a tenth of 40 captions


def test_the_funnel_adds_up(
    captions: Path, gate: IntentGate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [Caption(str(index), text, "test") for index, text in enumerate(["a red ball rolls", "a blue box falls"])]
    write_records(tmp_path / "captions.jsonl", short)
    with pytest.raises(ValueError, match=r"no pair is left for the \w+ split \(10 deformations: 1 kept, 5 say more"):
        pairs(tmp_path / "captions.jsonl", tmp_path, Parrot("a ball rolls"), gate)
    assert not (tmp_path / "train.jsonl").exists()
    with pytest.raises(ValueError, match="0 kept, 0 say more than their caption, 10 unchanged"):
        pairs(tmp_path / "captions.jsonl", tmp_path, Parrot(None), gate)


def test_settings_are_checked_before_work(captions: Path, gate: IntentGate, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; expected one Caption as JSON per line"):
        pairs(tmp_path / "missing.jsonl", tmp_path, Parrot(None), gate)
    with pytest.raises(ValueError, match="styles is empty"):
        pairs(captions, tmp_path, Parrot(None), gate, styles=[])
    with pytest.raises(ValueError, match="val_share must be above 0 and below 1, got 1"):
        pairs(captions, tmp_path, Parrot(None), gate, val_share=1)
    with pytest.raises(ValueError, match="limit must be at least 2"):
        pairs(captions, tmp_path, Parrot(None), gate, limit=1)


class ByStyle:
    """Answers each caption in the form that is asked for, as a language model may; some captions it fails at."""

    forms: ClassVar[dict[str, str]] = {
        "short": "{colour} kite",
        "generic": "A {colour} kite is flying over a beach at noon.",
        "reordered": "At noon, over a beach, a {colour} kite is flying.",
        "long": "There is a kite. The kite is {colour}. The kite is flying. It is flying over a beach. It is noon.",
        "tags": "{colour} kite, flying, beach, noon",
    }
    failures: ClassVar[dict[str, str]] = {
        "red": "",
        "blue": "I'm sorry, but I cannot help with that.",
        "green": "Option 1: green kite. Option 2: a green kite.",
        "pink": "\u4e00\u53ea\u98ce\u7b5d",
        "white": "... ?!",
    }

    def __init__(self, style: str) -> None:
        self.style = style

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        colours = [messages[0]["content"].split("Description: a ")[1].split()[0] for messages in conversations]
        return [self.failures.get(colour, self.forms[self.style].format(colour=colour)) for colour in colours]


@pytest.mark.parametrize("style", get_args(templates.DeformStyle))
def test_every_style_goes_through_and_what_the_language_model_fails_at_is_left_out_and_counted(
    style: templates.DeformStyle, gate: IntentGate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = ("red", "blue", "green", "pink", "white", "black", "yellow", "purple", "grey", "brown", "orange")
    captions = [f"a {colour} kite flying over a beach at noon." for colour in colours]
    write_records(tmp_path / "captions.jsonl", [Caption(text, text, "test") for text in captions])
    pairs(tmp_path / "captions.jsonl", tmp_path, ByStyle(style), gate, styles=[style], val_share=0.3)
    records = [record for split in ("train", "val") for record in read_records(tmp_path / f"{split}.jsonl", Rewrite)]
    answered = {record.completion[0]["content"]: record.prompt for record in records}
    assert answered == {
        caption: templates.refactor(ByStyle.forms[style].format(colour=colour))
        for colour, caption in zip(colours, captions, strict=True)
        if colour not in ByStyle.failures
    }
    assert "11 deformations: 6 kept, 3 say more than their caption, 0 unchanged, 0 repeated, 2 empty" in " ".join(
        capsys.readouterr().out.split()
    )
