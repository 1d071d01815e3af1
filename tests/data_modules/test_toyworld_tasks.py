"""The toy corpus and the toy language model's examples: true to the world, never the same text in two splits."""

import random
from pathlib import Path

import pytest

from data_modules.records import Caption, Prompt, Rewrite, read_records
from data_modules.toyworld import WORDINGS, asked, generic_prompt, mentions, split_of, worlds, write_caption
from data_modules.toyworld.__main__ import write
from data_modules.toyworld.grammar import ATTRIBUTES, World, write_user_prompt
from data_modules.toyworld.tasks import TASKS, examples, other_wordings, random_wording, revise, reword, some_of
from data_modules.toyworld.tasks import write as write_examples

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write(root)
    return root


def test_captions_show_training_worlds_in_full(corpus: Path) -> None:
    captions = read_records(corpus / "captions.jsonl", Caption)
    assert len({caption.caption for caption in captions}) == len(captions) == 600
    assert {split_of(World(**asked(caption.caption))) for caption in captions} == {"train"}


def test_captions_use_all_wordings_alike(corpus: Path) -> None:
    texts = [caption.caption for caption in read_records(corpus / "captions.jsonl", Caption)]
    said = [mentions(text)["light"][0][1] for text in texts]
    for wordings in WORDINGS["light"].values():
        for wording in wordings:
            assert said.count(wording) == pytest.approx(100, abs=35)  # 600 over 6 wordings, sigma 9


def test_no_prompt_is_in_two_splits_and_each_asks_for_something(corpus: Path) -> None:
    prompts = {split: read_records(corpus / "prompts" / f"{split}.jsonl", Prompt) for split in SPLITS}
    texts = [prompt.prompt for split in SPLITS for prompt in prompts[split]]
    assert len(set(texts)) == len(texts)
    assert min(len(asked(text)) for text in texts) >= 2
    assert {split: len(rows) for split, rows in prompts.items()} == {"train": 480, "val": 120, "test": 200}


def test_the_same_seed_writes_the_same_files(corpus: Path, tmp_path: Path) -> None:
    write(tmp_path)
    for path in corpus.rglob("*.jsonl"):
        assert (tmp_path / path.relative_to(corpus)).read_bytes() == path.read_bytes()


def test_more_texts_than_there_are_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_modules.toyworld.__main__.MAX_DRAWS", 1)  # so that the first repeated text is one too few
    with pytest.raises(ValueError, match=r"the val split has only about \d+ different texts, not 3000"):
        write(tmp_path, num_captions=1, num_test_prompts=1, num_val_prompts=3000)
    with pytest.raises(ValueError, match="at least 1 text, got 0"):
        write(tmp_path, num_captions=0)


def test_examples_of_the_splits_are_of_different_worlds(tmp_path: Path) -> None:
    write_examples(tmp_path, num_train=400, num_val=200, num_test=200)
    prompts = {
        split: {record.prompt[0]["content"] for record in read_records(tmp_path / f"{split}.jsonl", Rewrite)}
        for split in SPLITS
    }
    captioned = {
        split: {World(**asked(text)) for text in texts if "Description: " in text} for split, texts in prompts.items()
    }
    assert not captioned["train"] & (captioned["val"] | captioned["test"])
    assert {split_of(world) for world in captioned["val"]} == {"val"}


def test_no_example_teaches_to_write_captions_from_scratch() -> None:
    for record in examples("train", 500, random.Random(0)):
        prompt, answer = record.prompt[0]["content"], record.completion[0]["content"]
        assert "appears to be" not in answer or "Current prompt: a " in prompt


@pytest.mark.parametrize("form", ["caption", "generic", "user"])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_rewording_changes_one_attribute_and_nothing_else(form: str, attribute: str) -> None:
    rng = random.Random(f"{form} {attribute}")
    for world in rng.sample(worlds("train"), 20):
        wording = random_wording(world, rng)
        forms = {"caption": write_caption, "generic": generic_prompt, "user": lambda w: write_user_prompt(w, rng)}
        text = forms[form](wording)
        [*others] = other_wordings(attribute, getattr(world, attribute), text, [])
        assert set(others) == set(WORDINGS[attribute][getattr(world, attribute)]) - {wording[attribute]}
        changed = reword(text, attribute, others[0])
        assert mentions(changed) == mentions(text) | {attribute: [(getattr(world, attribute), others[0])]}
        assert reword(changed, attribute, wording[attribute]) == text
        if form != "user":
            assert changed == forms[form](wording | {attribute: others[0]})


def test_what_was_tried_is_avoided_until_all_was() -> None:
    assert other_wordings("colour", "red", "a red ball", ["a crimson ball"]) == ["scarlet"]
    assert other_wordings("colour", "red", "a red ball", ["a crimson ball", "scarlet box"]) == ["crimson", "scarlet"]


def test_revising_adds_what_is_missing() -> None:
    assert revise("a ball falls", {"colour": "azure"}) == "a ball falls, azure"
    assert revise("Show us the ball, in a video.", {"size": "tiny"}) == "Show us the ball, tiny, in a video."


def test_every_task_keeps_what_was_asked() -> None:
    rng = random.Random(0)
    for world in rng.sample(worlds("train"), 50):
        direct = TASKS["direct"](world, rng)
        prompt = direct.messages[0]["content"].split("Prompt: ")[1]
        assert asked(prompt).items() <= asked(direct.answer).items()
        assert set(asked(direct.answer)) == set(ATTRIBUTES)
        merge = TASKS["merge"](world, rng)
        assert asked(merge.messages[0]["content"].split("Prompt: ")[1]).items() <= asked(merge.answer).items()


@pytest.mark.parametrize("style", ["generic", "reordered", "long", "tags"])
def test_full_deformations_say_just_what_the_caption_says(style: str) -> None:
    rng = random.Random(0)
    for world in rng.sample(worlds("train"), 50):
        task = TASKS[f"deform_{style}"](world, rng)
        assert mentions(task.answer) == mentions(task.messages[0]["content"].split("Description: ")[1])


def test_some_of_keeps_the_worlds_order() -> None:
    rng = random.Random(0)
    wording = random_wording(worlds("train")[0], rng)
    for _ in range(20):
        kept = list(some_of(wording, rng))
        assert kept == [name for name in ATTRIBUTES if name in kept]
        assert 2 <= len(kept) <= 4
