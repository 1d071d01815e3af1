"""What the discriminator is shown, on a tiny tokenizer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_modules import DiscriminatorDataModule
from data_modules.records import Choice, Prompt, read_records, write_records
from data_modules.templates import CHOICE_LABELS, choose

RAW = Prompt("1", "a red ball falls")
FIRST, SECOND = "a red ball falls slowly.", "a ball that is red, which falls here."


def choice(first: str = FIRST, second: str = SECOND, label: str = "A") -> Choice:
    scores = (0.8, 0.2) if label == "A" else (0.2, 0.8)
    return Choice("x", RAW.id, choose(RAW, first, second), label, dict(zip(("plain", "graph"), scores, strict=True)))


def loaded(tiny_lm: Path, root: Path, records: list[Choice]) -> DiscriminatorDataModule:
    for split in ("train", "val"):
        write_records(root / f"{split}.jsonl", records)
    data = DiscriminatorDataModule(pretrained=str(tiny_lm), root=root, batch_size=4)
    data.setup("fit")
    return data


def test_records_are_read_back_in_the_order_of_their_candidates(tmp_path: Path) -> None:
    write_records(tmp_path / "train.jsonl", [choice(label="B")])
    (read,) = read_records(tmp_path / "train.jsonl", Choice)
    assert read == choice(label="B")
    assert list(read.scores) == ["plain", "graph"]


def test_the_question_names_prompt_rule_and_both_rewrites() -> None:
    (message,) = choose(Prompt("1", "a ball falls", "gravity"), FIRST, SECOND)
    assert message["content"].splitlines()[1:] == [
        "Rule: gravity",
        "Prompt: a ball falls",
        f"A: {FIRST}",
        f"B: {SECOND}",
    ]


def test_the_last_position_predicts_the_answer(tiny_lm: Path, tmp_path: Path) -> None:
    short = choice(label="B")
    data = loaded(tiny_lm, tmp_path, [choice(second=SECOND * 2), short])
    batch = next(iter(data.val_dataloader()))
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    question = tokenizer.apply_chat_template(short.prompt, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(batch["input_ids"][1][batch["attention_mask"][1].bool()]) == question
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][1, 0] == 0  # padded on the left
    assert batch["labels"].tolist() == [0, 1]
    for row, label in zip(batch["label_ids"].T, CHOICE_LABELS, strict=True):
        whole = tokenizer.apply_chat_template([*short.prompt, {"role": "assistant", "content": label}], tokenize=False)
        answer = tokenizer(whole, add_special_tokens=False).input_ids
        assert row.tolist() == [answer[int(batch["attention_mask"][1].sum())]] * 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(choice(), label="C"), r"train\.jsonl:1 is not a Choice: label should be 'A' or 'B', found 'C'"),
        (replace(choice(), scores={"plain": 1.0}), "record x has label 'A' and 1 scores"),
        (replace(choice(), label="B"), "record x has label B though its scores are .*the higher score"),
        (replace(choice(), scores={"plain": 0.5, "graph": 0.5}), "record x has label A though its scores"),
    ],
)
def test_records_that_teach_nothing_are_refused(record: Choice, message: str, tiny_lm: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(tiny_lm, tmp_path, [record])


def test_labels_that_begin_alike_are_refused(tiny_lm: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    # A space before each word, in a token of its own, as some tokenizers put it before an answer.
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(?=[AB]$)"}, "content": "~"}
    changed = tmp_path / "changed"
    tokenizer.save_pretrained(changed)
    (changed / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ValueError, match="does not begin the answers A and B with tokens of their own"):
        loaded(changed, tmp_path, [choice()])


def test_a_file_of_other_records_is_refused(tiny_lm: Path, rewrites: Path) -> None:
    data = DiscriminatorDataModule(pretrained=str(tiny_lm), root=rewrites)
    with pytest.raises(
        ValueError,
        match=r"train\.jsonl:1 is not a Choice: it lacks prompt_id; its keys are id, prompt_id, prompt, label",
    ):
        data.setup("fit")


def test_batches_are_tensors_of_one_length(tiny_lm: Path, tmp_path: Path) -> None:
    data = loaded(tiny_lm, tmp_path, [choice(), choice(second=SECOND * 2)])
    batch = next(iter(data.val_dataloader()))
    assert {name: tuple(value.shape[:1]) for name, value in batch.items()} == dict.fromkeys(batch, (2,))
    assert all(value.dtype == torch.int64 for value in batch.values())
