"""What SFT trains, on a tiny Qwen2."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2ForCausalLM,
)

from data_modules import SFTDataModule
from models.dpo import DPOModule
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


def llama(directory: Path) -> Path:
    """A tiny Llama whose head is not tied to its embeddings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


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


def gradients(trained: SFTModule, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = trained.step(inputs)["loss"]
    return loss.detach(), list(torch.autograd.grad(loss, [p for p in trained.parameters() if p.requires_grad]))


@pytest.mark.parametrize("lora", [None, LoRA(r=2, alpha=4, dropout=0.0)], ids=["every weight", "adapters"])
def test_packing_changes_nothing_that_is_learned(lora: LoRA | None, tiny_lm: Path, rewrites: Path) -> None:
    trained = module(tiny_lm, lora)
    trained.eval()
    found = []
    for packing in (False, True):
        data = SFTDataModule(pretrained=str(tiny_lm), root=rewrites, max_length=160, packing=packing)
        data.setup("fit")
        inputs = data.collate(data.examples["train"][:7])
        assert len(inputs["input_ids"]) == (3 if packing else 7)
        found.append(gradients(trained, inputs))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


def test_adapters_of_the_head_learn(tmp_path: Path) -> None:
    trained = module(llama(tmp_path), LoRA(r=2, dropout=0.0, target_modules=["q_proj", "lm_head"]))
    for name, value in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    torch.testing.assert_close(trained.step(inputs)["loss"], trained.model(inputs["input_ids"], labels=labels).loss)
    _, of_each = gradients(trained, inputs)
    assert all(gradient.abs().max() > 0 for gradient in of_each)


def test_what_a_network_does_after_its_head_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.5,
        pad_token_id=0,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    trained = module(tmp_path, LoRA(r=2, dropout=0.0))
    assert not trained.plain_head
    inputs = batch()
    logits = trained.model(inputs["input_ids"]).logits
    assert logits.abs().max() <= 0.5
    expected = F.cross_entropy(logits[:, 2:-1].flatten(0, 1), inputs["input_ids"][:, 3:].flatten())
    torch.testing.assert_close(trained.step(inputs)["loss"], expected)


def test_a_recurrent_network_is_not_given_packed_rows(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=30, hidden_size=16, state_size=4, num_hidden_layers=1, pad_token_id=0)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    trained = module(tmp_path)
    inputs = batch()
    trained.step(inputs)
    positions = {"position_ids": torch.arange(6).expand(2, 6)}
    with pytest.raises(ValueError, match=r"does not keep the examples of a packed row apart; set data.init_args.packi"):
        trained.step({**positions, **{name: inputs[name] for name in ("input_ids", "completion_mask")}})
    with pytest.raises(ValueError, match="is a MambaForCausalLM with"):
        DPOModule(pretrained=str(tmp_path), lora=LoRA(dropout=0.0)).configure_model()


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


# Of one prompt token and two that were written: the first two of these rows say what is written.
TRAINED = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("logits", "text", "dtype", "message"),
    [
        (TRAINED, [1, 2], torch.float32, None),
        (TRAINED + 0.5, [1, 2], torch.float32, "logits that differ by 0.5"),
        (TRAINED + 0.05, [1, 2], torch.bfloat16, None),
        (TRAINED + 0.05, [1, 2], torch.float16, "logits that differ by 0.05"),
        (TRAINED + 0.5, [1, 2], torch.bfloat16, "logits that differ by 0.5"),
        (torch.full((2, 3), float("nan")), [1, 2], torch.bfloat16, "logits that differ by nan"),
        (TRAINED, [1, 0], torch.bfloat16, r"answers \[1, 0\] and the trained network \[1, 2\]"),
        (TRAINED[:1], [0], torch.float32, r"answers \[0\] and the trained network \[1, 2\]"),
    ],
)
def test_an_export_must_answer_equally(
    logits: torch.Tensor, text: list[int], dtype: torch.dtype, message: str | None
) -> None:
    expected = TRAINED, [1, 2]
    if message is None:
        require_equal_answers([expected], [(logits, text)], Path("hf"), dtype)
        return
    with pytest.raises(ValueError, match=message):
        require_equal_answers([expected, expected], [expected, (logits, text)], Path("hf"), dtype)


def test_texts_may_part_where_two_tokens_are_as_likely() -> None:
    even = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    other = torch.tensor([[0.0, 1.0, 1.01], [9.0, 0.0, 0.0]])
    require_equal_answers([(even, [1, 2])], [(other, [2, 0])], Path("hf"), torch.bfloat16)
    with pytest.raises(ValueError, match=r"logits that differ by 0.01"):
        require_equal_answers([(even, [1, 2])], [(other, [2, 0])], Path("hf"), torch.float32)
