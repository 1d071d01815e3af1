"""Pairs to batches, and the reference that is computed once."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from data_modules import PreferenceDataModule
from data_modules.records import Preference, read_records, write_records


class FakePolicy(LightningModule):
    """Scores pairs by the number of their answers' tokens and counts what it is asked."""

    def __init__(self, name: str = "one") -> None:
        super().__init__()
        self.name = name
        self.asked = 0

    def reference_log_probs(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += len(batch["input_ids"])
        return -batch["chosen_mask"].sum(1).float(), -batch["rejected_mask"].sum(1).float()

    def reference_fingerprint(self) -> str:
        return self.name


@pytest.fixture
def root(preferences: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(preferences, tmp_path / "preferences"))


def module(tiny_lm: Path, root: Path, policy: LightningModule) -> PreferenceDataModule:
    data = PreferenceDataModule(pretrained=str(tiny_lm), root=root, batch_size=4, max_length=256)
    data.setup("fit")
    data.trainer = Trainer(logger=False, accelerator="cpu")
    data.trainer.strategy.connect(policy)
    return data


def test_a_row_is_the_prompt_once_and_both_answers_with_their_ends(tiny_lm: Path, root: Path) -> None:
    data = module(tiny_lm, root, FakePolicy())
    record, row = data.records["train"][0], data.collate(data.examples["train"][:1])
    ids, positions = row["input_ids"][0], row["position_ids"][0]
    prompt = data.tokenizer.apply_chat_template(record.prompt, tokenize=False, add_generation_prompt=True)
    length = len(data.tokenizer(prompt).input_ids)
    assert data.tokenizer.decode(ids[:length]) == prompt
    for mask, messages in ((row["chosen_mask"][0], record.chosen), (row["rejected_mask"][0], record.rejected)):
        assert data.tokenizer.decode(ids[mask.bool()]) == f"{messages[0]['content']}<|im_end|>\n"
        (where,) = mask.nonzero(as_tuple=True)
        assert positions[where].tolist() == list(range(length, length + len(where)))
        assert ids[where[0] - 1] == ids[length - 1]  # each answer follows the prompt's last token
        assert positions[where[0] - 1] == length - 1


def test_an_answer_sees_the_prompt_and_itself_only(tiny_lm: Path, root: Path) -> None:
    data = module(tiny_lm, root, FakePolicy())
    row = data.collate(data.examples["train"][:1])
    seen = row["attention_mask"][0, 0]
    chosen, rejected = (row[f"{name}_mask"][0].bool() for name in ("chosen", "rejected"))
    assert not seen[rejected][:, chosen].any()
    assert not seen.triu(1).any()
    for mask in (chosen, rejected):
        last = mask.nonzero()[-1, 0]
        seen_positions = row["position_ids"][0][seen[last]].tolist()
        assert seen_positions == list(range(len(seen_positions)))  # every position up to its own, once


def test_the_reference_is_asked_once_and_kept_with_the_data(tiny_lm: Path, root: Path) -> None:
    first = FakePolicy()
    data = module(tiny_lm, root, first)
    (batch, *_) = data.val_dataloader()
    for role in ("chosen", "rejected"):
        torch.testing.assert_close(
            batch[f"ref_{role}_logps"].view(torch.float32), -batch[f"{role}_mask"].sum(1).float()
        )
    data.train_dataloader()
    data.train_dataloader()
    assert first.asked == len(data.examples["train"]) + len(data.examples["val"])

    second = FakePolicy()
    again = module(tiny_lm, root, second)
    again.train_dataloader()
    assert second.asked == 0
    assert again.examples["train"] == data.examples["train"]


def test_another_model_or_other_pairs_are_scored_again(tiny_lm: Path, root: Path) -> None:
    module(tiny_lm, root, FakePolicy()).train_dataloader()
    other = FakePolicy("two")
    module(tiny_lm, root, other).train_dataloader()
    assert other.asked == len(read_records(root / "train.jsonl", Preference))

    records = read_records(root / "train.jsonl", Preference)
    write_records(root / "train.jsonl", records[::-1])
    changed = FakePolicy("two")
    module(tiny_lm, root, changed).train_dataloader()
    assert changed.asked == len(records)


def test_a_folder_that_cannot_be_written_only_costs_the_next_run(
    tiny_lm: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "replace", refuse)
    module(tiny_lm, root, FakePolicy()).train_dataloader()
    assert "the next run computes it again" in caplog.text


def test_a_module_without_a_reference_is_refused(tiny_lm: Path, root: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a module with a reference policy, .* got LightningModule"):
        module(tiny_lm, root, LightningModule()).train_dataloader()


def test_a_pair_too_long_for_a_row_is_refused(tiny_lm: Path, root: Path) -> None:
    with pytest.raises(ValueError, match="have more than max_length=20 tokens"):
        PreferenceDataModule(pretrained=str(tiny_lm), root=root, max_length=20).setup("fit")
