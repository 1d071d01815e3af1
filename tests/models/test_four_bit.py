"""A base in four bits needs adapters and a library of its own, and says so."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from models import SFTModule, four_bit
from train.cli import main


def test_it_is_refused_without_adapters(tiny_lm: Path) -> None:
    with pytest.raises(ValueError, match="four_bit needs `lora`"):
        SFTModule(pretrained=str(tiny_lm), four_bit=True)


def test_it_is_refused_without_bitsandbytes(sft_config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_bit, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs bitsandbytes, which is not installed; `pip install '\.\[qlora\]'`"):
        main(["fit", f"--config={sft_config('run')}", "--model.four_bit=true"])


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_adapters_learn_on_a_base_in_four_bits_and_are_exported_for_the_base_itself(
    sft_config: Callable[[str], Path], tmp_path: Path
) -> None:
    command = [f"--config={sft_config('run')}", "--model.four_bit=true"]
    main(["fit", *command])
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    learned = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all("lora_" in name for name in learned)
    assert any(value.abs().max() > 0 for name, value in learned.items() if "lora_B" in name)
    main(["export", *command, f"--ckpt_path={checkpoint}", f"--output_dir={tmp_path / 'hf'}"])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert {value.dtype for value in exported.parameters()} == {torch.float32}
