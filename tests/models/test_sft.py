"""What SFT trains, on a tiny Qwen2."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from models.lora import LoRA
from models.sft import SFTModule, require_equal_answers


def batch(first: int = 3) -> dict[str, torch.Tensor]:
    """Two sequences of six tokens whose last three are the completion."""
    ids = torch.arange(first, first + 12).reshape(2, 6)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": torch.tensor([[0, 0, 0, 1, 1, 1]] * 2),
    }


def module(pretrained: Path, lora: LoRA | None = None) -> SFTModule:
    built = SFTModule(pretrained=str(pretrained), lora=lora)
    built.configure_model()
    return built


def test_building_a_module_touches_no_weights() -> None:
    assert SFTModule(pretrained="there/is/no/such/model").model is None


def test_loss_is_the_completions_cross_entropy(tiny_lm: Path) -> None:
    trained = module(tiny_lm)
    trained.eval()
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    expected = trained.model(inputs["input_ids"], labels=labels).loss
    torch.testing.assert_close(trained.step(inputs)["loss"], expected)


def test_padding_changes_nothing(tiny_lm: Path) -> None:
    trained = module(tiny_lm)
    trained.eval()
    padded = {name: torch.nn.functional.pad(value, (0, 4)) for name, value in batch().items()}
    torch.testing.assert_close(trained.step(padded), trained.step(batch()))


@pytest.mark.parametrize("lora", [None, LoRA(r=2, alpha=4, dropout=0.0)], ids=["every weight", "adapters"])
def test_eight_steps_on_two_examples_drive_the_loss_down(lora: LoRA | None, tiny_lm: Path) -> None:
    torch.manual_seed(0)
    trained = module(tiny_lm, lora)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(9):
        loss = trained.step(batch())["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2


def test_only_adapters_learn_and_are_in_the_checkpoint(tiny_lm: Path) -> None:
    trained = module(tiny_lm, LoRA(r=2, alpha=4, dropout=0.0))
    trained.step(batch())["loss"].backward()
    with_gradient = {name for name, p in trained.named_parameters() if p.grad is not None}
    assert with_gradient == trained.state_dict().keys()
    assert all("lora_" in name for name in with_gradient)


def test_fresh_adapters_change_nothing(tiny_lm: Path) -> None:
    plain, adapted = module(tiny_lm), module(tiny_lm, LoRA(r=2, alpha=4))
    plain.eval()
    adapted.eval()
    assert torch.equal(plain.step(batch())["loss"], adapted.step(batch())["loss"])


def test_half_precision_files_are_trained_in_single_precision(tiny_lm: Path, tmp_path: Path) -> None:
    Qwen2ForCausalLM.from_pretrained(tiny_lm, dtype=torch.float16).save_pretrained(tmp_path)
    assert {p.dtype for p in module(tmp_path).parameters()} == {torch.float32}


def test_the_network_starts_in_train_mode(tiny_lm: Path) -> None:
    assert all(part.training for part in module(tiny_lm, LoRA(r=2)).modules())


@pytest.mark.parametrize(
    ("logits", "text", "message"),
    [
        (torch.zeros(2, 3), [1, 2], None),
        (torch.full((2, 3), 0.5), [1, 2], "logits that differ by 0.5"),
        (torch.full((2, 3), float("nan")), [1, 2], "logits that differ by nan"),
        (torch.zeros(2, 3), [1, 3], r"answers \[1, 3\] and the trained network \[1, 2\]"),
    ],
)
def test_an_export_must_answer_equally(logits: torch.Tensor, text: list[int], message: str | None) -> None:
    expected = torch.zeros(2, 3), [1, 2]
    if message is None:
        require_equal_answers(expected, (logits, text), Path("hf"))
        return
    with pytest.raises(ValueError, match=message):
        require_equal_answers(expected, (logits, text), Path("hf"))
