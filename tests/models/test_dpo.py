"""What DPO trains, on a tiny Qwen2, against the plain computation: every answer a row of its own, all logits."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import selective_log_softmax

from data_modules import PreferenceDataModule
from models import DPOModule
from models.lora import LoRA


def module(pretrained: Path, **settings: object) -> DPOModule:
    built = DPOModule(pretrained=str(pretrained), **{"lora": LoRA(r=2, alpha=4, dropout=0.0), **settings})
    built.configure_model()
    Trainer(logger=False, accelerator="cpu").strategy.connect(built)
    built.trainer = Trainer(logger=False, accelerator="cpu")
    return built


def perturb(trained: DPOModule) -> None:
    """Adapters that do something."""
    torch.manual_seed(1)
    for name, value in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)


@pytest.fixture
def data(tiny_lm: Path, preferences: Path) -> PreferenceDataModule:
    built = PreferenceDataModule(pretrained=str(tiny_lm), root=preferences, batch_size=4, max_length=256)
    built.setup("fit")
    return built


def with_reference(trained: DPOModule, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    chosen, rejected = trained.reference_log_probs(batch)
    return {**batch, "ref_chosen_logps": chosen.view(torch.int32), "ref_rejected_logps": rejected.view(torch.int32)}


def plain(trained: DPOModule, data: PreferenceDataModule, role: str, split: str = "train") -> torch.Tensor:
    """Log-probabilities of the answers of one role, a padded row each, from all logits."""
    rows = [data.tokenise(r.id, r.prompt, getattr(r, role)) for r in data.records[split]]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, seen, mask = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(3))
    for index, (prompt, answer) in enumerate(rows):
        whole = len(prompt) + len(answer)
        ids[index, :whole] = torch.tensor([*prompt, *answer])
        seen[index, :whole] = 1
        mask[index, len(prompt) : whole] = 1
    logits = trained.model(ids, attention_mask=seen).logits
    return (selective_log_softmax(logits[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum(-1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_prompt_computed_once_scores_as_two_rows_do(
    attention: str, tiny_lm: Path, data: PreferenceDataModule
) -> None:
    trained = module(tiny_lm)
    trained.model.get_base_model().set_attn_implementation(attention)
    perturb(trained)
    chosen, rejected = trained.pair_log_probs(data.collate(data.examples["train"]))
    expected_chosen, expected_rejected = plain(trained, data, "chosen"), plain(trained, data, "rejected")
    torch.testing.assert_close(chosen, expected_chosen)
    torch.testing.assert_close(rejected, expected_rejected)

    parameters = [p for p in trained.parameters() if p.requires_grad]
    weights = torch.linspace(-1, 1, len(chosen))
    got = torch.autograd.grad((chosen * weights - rejected).sum(), parameters)
    expected = torch.autograd.grad((expected_chosen * weights - expected_rejected).sum(), parameters)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_rejected_answer_does_not_see_the_chosen_one(tiny_lm: Path, data: PreferenceDataModule) -> None:
    trained = module(tiny_lm)
    batch = data.collate(data.examples["train"][:2])
    before = trained.pair_log_probs(batch)
    batch["input_ids"] = torch.where(batch["chosen_mask"].bool(), batch["input_ids"] - 1, batch["input_ids"])
    after = trained.pair_log_probs(batch)
    assert torch.equal(before[1], after[1])
    assert not torch.isclose(before[0], after[0]).any()


def test_it_begins_at_log_two_and_margin_zero(tiny_lm: Path, data: PreferenceDataModule) -> None:
    trained = module(tiny_lm)
    batch = with_reference(trained, data.collate(data.examples["train"][:4]))
    metrics = trained.step(batch)
    assert metrics["dpo_loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["rewards/margins"].item() == pytest.approx(0, abs=1e-5)
    assert metrics["rewards/chosen"].item() == pytest.approx(0, abs=1e-5)
    supervised = -plain(trained, data, "chosen")[:4].sum() / batch["chosen_mask"].sum()
    assert metrics["loss"].item() == pytest.approx(math.log(2) + 0.1 * supervised.item(), rel=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_training_widens_the_margin_and_leaves_the_reference_alone(
    checkpointing: bool, tiny_lm: Path, data: PreferenceDataModule
) -> None:
    trained = module(tiny_lm, gradient_checkpointing=checkpointing, sft_weight=0.0)
    batch = with_reference(trained, data.collate(data.examples["train"][:4]))
    fingerprint = trained.reference_fingerprint()
    before = {name: p.clone() for name, p in trained.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(4):
        loss = trained.step(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = trained.step(batch)
    assert metrics["rewards/margins"] > 0.05
    assert metrics["rewards/accuracies"] == 1
    assert metrics["loss"] < math.log(2) - 0.02
    assert all(torch.equal(p, before[name]) for name, p in trained.named_parameters() if not p.requires_grad)
    assert trained.reference_fingerprint() == fingerprint
    again = with_reference(trained, batch)
    assert torch.equal(again["ref_chosen_logps"], batch["ref_chosen_logps"])
    source = AutoModelForCausalLM.from_pretrained(tiny_lm).state_dict()
    kept = {n.replace(".base_layer", "").removeprefix("model.base_model.model."): p for n, p in before.items()}
    assert all(torch.equal(source[name], p) for name, p in kept.items())


def test_nothing_is_dropped_while_training(tiny_lm: Path, data: PreferenceDataModule) -> None:
    for checkpointing in (False, True):
        trained = module(tiny_lm, gradient_checkpointing=checkpointing)  # its attention has dropout
        perturb(trained)
        batch = with_reference(trained, data.collate(data.examples["train"][:2]))
        assert torch.equal(trained.step(batch)["loss"], trained.step(batch)["loss"])


def test_gradient_checkpointing_recomputes(tiny_lm: Path, data: PreferenceDataModule) -> None:
    trained = module(tiny_lm, gradient_checkpointing=True)
    calls = []
    trained.model.get_base_model().base_model.layers[0].input_layernorm.register_forward_hook(
        lambda *_: calls.append(1)
    )
    batch = with_reference(trained, data.collate(data.examples["train"][:2]))
    calls.clear()
    trained.step(batch)["loss"].backward()
    assert len(calls) == 2


def test_another_family_of_networks_scores_alike(tiny_lm: Path, data: PreferenceDataModule, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    trained = module(tmp_path)
    chosen, rejected = trained.pair_log_probs(data.collate(data.examples["train"]))
    torch.testing.assert_close(chosen, plain(trained, data, "chosen"))
    torch.testing.assert_close(rejected, plain(trained, data, "rejected"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs `lora`: its reference is the network without adapters"),
        ({"lora": LoRA(r=2)}, "trains without dropout; set lora.dropout to 0, got 0.1"),
        ({"lora": LoRA(dropout=0.0), "beta": 0.0}, "beta must be above 0"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPOModule(pretrained="x", **settings)


def test_a_row_longer_than_the_attention_window_is_refused(tiny_lm: Path, data: PreferenceDataModule) -> None:
    trained = module(tiny_lm)
    trained.model.config.sliding_window = 8
    with pytest.raises(ValueError, match="does not fit the attention window"):
        trained.pair_log_probs(data.collate(data.examples["train"][:1]))
