"""Records to batches."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from data_modules import SFTDataModule
from data_modules.records import Rewrite, write_records
from data_modules.sft import pack


@pytest.fixture
def data(tiny_lm: Path, rewrites: Path) -> SFTDataModule:
    module = SFTDataModule(pretrained=str(tiny_lm), root=rewrites, batch_size=4, packing=False)
    module.setup("fit")
    return module


def test_the_mask_covers_the_answer_and_its_end(data: SFTDataModule) -> None:
    example = data.examples["train"][0]
    ids, mask = torch.tensor(example["input_ids"]), torch.tensor(example["completion_mask"], dtype=torch.bool)
    assert data.tokenizer.decode(ids[~mask]) == (
        "<|im_start|>user\nRewrite as a caption: a red ball falls<|im_end|>\n<|im_start|>assistant\n"
    )
    assert data.tokenizer.decode(ids[mask]) == "a red ball falls slowly. The ball is red.<|im_end|>\n"


def test_the_prompt_is_tokenised_as_at_inference(data: SFTDataModule) -> None:
    for record, example in zip(data.records["train"], data.examples["train"], strict=True):
        asked = data.tokenizer.apply_chat_template(record.prompt, add_generation_prompt=True, return_dict=True)
        length = len(asked["input_ids"])
        assert example["input_ids"][:length] == asked["input_ids"]
        assert example["completion_mask"].index(1) == length


def test_batches_are_padded_on_the_right(data: SFTDataModule) -> None:
    rows = sorted(data.examples["train"], key=lambda example: len(example["input_ids"]))
    short, long = rows[0], rows[-1]
    batch = data.collate([short, long])
    length = len(short["input_ids"])
    assert batch["input_ids"].shape == (2, len(long["input_ids"]))
    assert batch["input_ids"][0, :length].tolist() == short["input_ids"]
    assert set(batch["input_ids"][0, length:].tolist()) == {data.tokenizer.pad_token_id}
    assert batch["attention_mask"].sum(1).tolist() == [length, len(long["input_ids"])]
    assert batch["completion_mask"][0, length:].sum() == 0


def test_packed_rows_hold_every_example_once_each_from_position_0(data: SFTDataModule) -> None:
    data.packing, data.max_length = True, 150
    examples = data.examples["train"][:6]
    batch = data.collate(examples)
    assert batch["input_ids"].shape[0] < 6
    assert batch["input_ids"].shape[1] <= 150
    found = []
    for ids, mask, positions in zip(batch["input_ids"], batch["completion_mask"], batch["position_ids"], strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
        for start, end in pairwise(starts):
            if mask[start:end].any():
                found.append((ids[start:end].tolist(), mask[start:end].tolist()))
                assert positions[start:end].tolist() == list(range(end - start))
            else:
                assert ids[start:end].tolist() == [data.tokenizer.pad_token_id]  # padding is alone
    assert sorted(found) == sorted((e["input_ids"], e["completion_mask"]) for e in examples)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(50, 120))
def test_packing_loses_nothing_and_overfills_no_row(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= capacity for row in rows)


def test_validation_is_in_file_order(data: SFTDataModule) -> None:
    (batch,) = data.val_dataloader()
    for row, example in zip(batch["input_ids"], data.examples["val"], strict=True):
        assert row[: len(example["input_ids"])].tolist() == example["input_ids"]


def test_a_long_example_stops_or_is_counted(tiny_lm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answered(name: str, words: int) -> Rewrite:
        return Rewrite(name, [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "a " * words}])

    write_records(tmp_path / "train.jsonl", [answered("a1", 1), answered("a2", 90), answered("a3", 2)])
    write_records(tmp_path / "val.jsonl", [answered("b1", 1)])
    settings = {"pretrained": str(tiny_lm), "root": tmp_path}

    strict = SFTDataModule(**settings, max_length=60)
    message = r"1 of the 3 examples in .*train.jsonl have more than max_length=60 tokens \(the first is a2, the longest"
    with pytest.raises(ValueError, match=message):
        strict.setup("fit")

    lenient = SFTDataModule(**settings, max_length=60, overlong="drop")
    lenient.setup("fit")
    assert [record.id for record in lenient.records["train"]] == ["a1", "a3"]
    assert len(lenient.examples["train"]) == 2
    assert "1 of the 3 examples" in caplog.text

    nothing = SFTDataModule(**settings, max_length=2, overlong="drop")
    with pytest.raises(ValueError, match="none is left"):
        nothing.setup("fit")


def test_an_empty_answer_is_refused(tiny_lm: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "test.jsonl", [Rewrite("a1", [{"role": "user", "content": "x"}], [])])
    with pytest.raises(ValueError, match="record a1 has an empty prompt or completion"):
        SFTDataModule(pretrained=str(tiny_lm), root=tmp_path).setup("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chat_template": None}, "has no chat template"),
        ({"eos_token": "<|endoftext|>"}, "does not end an answer with its end token"),
        (
            {"chat_template": "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"},
            "changes the prompt of record",
        ),
    ],
)
def test_unfit_tokenizers_are_refused(
    change: dict[str, str | None], message: str, tokenizer: PreTrainedTokenizerFast, rewrites: Path, tmp_path: Path
) -> None:
    unfit = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        **{
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": tokenizer.chat_template,
            **change,
        },
    )
    unfit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SFTDataModule(pretrained=str(tmp_path), root=rewrites).setup("fit")


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("max_length", 1)])
def test_impossible_numbers_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least .*, got {value}"):
        SFTDataModule(pretrained="x", root=Path("y"), **{name: value})


def test_a_file_cut_short_is_named(tiny_lm: Path, rewrites: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copy(rewrites / f"{split}.jsonl", tmp_path)
    whole = (tmp_path / "val.jsonl").read_text()
    (tmp_path / "val.jsonl").write_text(whole[: len(whole) - 20])
    with pytest.raises(ValueError, match=r"val.jsonl:3 is not JSON .* is the file cut short\?"):
        SFTDataModule(pretrained=str(tiny_lm), root=tmp_path).setup("fit")
