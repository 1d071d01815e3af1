"""Models to start from that differ in what their files say: limits, precision, tokens, tied weights."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
)

from models.sft import tokens_of
from tests.test_train import fail, weights
from train.cli import main

ConfigWriter = Callable[[str], Path]


def gemma3() -> PreTrainedModel:
    """Text in a configuration within a configuration, as in Gemma 3 of 4 billion parameters and more."""
    text = {
        "vocab_size": 400,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": 256,
    }
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config={**vision, "image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4,
            image_token_index=399,
        )
    )


def bloom() -> PreTrainedModel:
    """No limit to the positions."""
    return BloomForCausalLM(BloomConfig(vocab_size=400, hidden_size=16, n_layer=2, n_head=2))


def gpt2() -> PreTrainedModel:
    """The limit under an older name."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=200))


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    torch.manual_seed(0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # of GPT-2's own kind of layer
@pytest.mark.parametrize(
    ("build", "flags"),
    [
        (gemma3, ["--model.lora.target_modules=['q_proj','v_proj']"]),
        (bloom, ["--data.packing=false"]),
        (gpt2, []),
    ],
    ids=["gemma3", "bloom", "gpt2"],
)
def test_limits_are_found_wherever_they_stand(
    build: Callable[[], PreTrainedModel],
    flags: list[str],
    tokenizer: PreTrainedTokenizerFast,
    sft_config: ConfigWriter,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    base = saved(build(), tokenizer, tmp_path / "base")
    arguments = [f"--config={sft_config('run')}", f"--model.pretrained={base}", *flags]
    main(["fit", *arguments, "--data.batch_size=6"])
    last = tmp_path / "run/checkpoints/last.ckpt"
    main(["export", *arguments, f"--ckpt_path={last}", f"--output_dir={tmp_path / 'hf'}"])
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "hf").config.model_type
        == json.loads((base / "config.json").read_text())["model_type"]
    )


@pytest.mark.parametrize("size", [300, 32000, 32768, 49152, 65536, 128256, 151936, 256000, 262208])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tokens_are_of_the_vocabulary_in_any_precision(
    dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    )
    model.get_input_embeddings().num_embeddings = size
    torch.set_default_dtype(dtype)
    try:
        words = tokens_of(model, 8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert words[0] == 0
    assert words[-1] == size - 1
    assert len(set(words.tolist())) == 8


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("padding", [None, "<|im_end|>"], ids=["none", "the end token"])
def test_a_base_without_a_padding_token_trains_alike(
    padding: str | None, stage: str, tiny_lm: Path, preferences: Path, sft_config: ConfigWriter, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_lm, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.pad_token = padding
    tokenizer.save_pretrained(other)
    found = []
    for name, base in (("one", tiny_lm), ("two", other)):
        arguments = [f"--config={sft_config(name)}", f"--model.pretrained={base}"]
        if stage == "dpo":
            arguments += ["--model=models.DPOModule", "--model.lora={r: 2, alpha: 4, dropout: 0.0}"]
            arguments += ["--data=data_modules.PreferenceDataModule", f"--data.root={preferences}"]
            arguments += ["--data.max_length=256"]
        main(["fit", *arguments])
        last = tmp_path / name / "checkpoints/last.ckpt"
        found.append(weights(last))
        main(["export", *arguments, f"--ckpt_path={last}", f"--output_dir={tmp_path / name / 'hf'}"])
    torch.testing.assert_close(*found)
    assert AutoTokenizer.from_pretrained(tmp_path / "two/hf").pad_token == padding


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("merge", ["true", "false"], ids=["merged", "adapters"])
def test_an_export_has_its_bases_precision(
    merge: str, dtype: str, tiny_lm: Path, tokenizer: PreTrainedTokenizerFast, sft_config: ConfigWriter, tmp_path: Path
) -> None:
    model = Qwen2ForCausalLM.from_pretrained(tiny_lm, dtype=getattr(torch, dtype))
    base = saved(model, tokenizer, tmp_path / "base")
    arguments = [f"--config={sft_config('run')}", f"--model.pretrained={base}"]
    main(["fit", *arguments])
    arguments += [f"--ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}", f"--merge={merge}"]
    for asked, expected in ((None, dtype), ("float32", "float32"), ("bfloat16", "bfloat16")):
        hf = tmp_path / f"hf_{asked}"
        main(["export", *arguments, f"--output_dir={hf}", *([f"--dtype={asked}"] if asked else [])])
        (path,) = hf.glob("*.safetensors")
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(name).dtype for name in list(file.keys())} == {getattr(torch, expected)}
        if merge == "true":
            config = json.loads((hf / "config.json").read_text())
            assert config["dtype"] == config["torch_dtype"] == expected


def tied(directory: Path, tokenizer: PreTrainedTokenizerFast, kind: str) -> Path:
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "gpt2":
        return saved(gpt2(), tokenizer, directory)
    config = LlamaConfig(vocab_size=400, **settings, tie_word_embeddings=kind == "tied")
    return saved(LlamaForCausalLM(config), tokenizer, directory)


@pytest.mark.parametrize(
    ("kind", "targets", "named"),
    [
        ("tied", "['q_proj','lm_head']", "takes in lm_head, but model.embed_tokens and lm_head are tied"),
        ("tied", "['embed_tokens']", "takes in model.embed_tokens, but model.embed_tokens and lm_head are tied"),
        ("gpt2", "['c_attn','wte']", "takes in transformer.wte, but transformer.wte and lm_head are tied"),
        ("untied", "['q_proj','lm_head']", None),
    ],
)
def test_adapters_on_tied_weights_are_refused_before_training(
    kind: str,
    targets: str,
    named: str | None,
    tokenizer: PreTrainedTokenizerFast,
    sft_config: ConfigWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tied(tmp_path / "base", tokenizer, kind)
    flags = [f"--model.pretrained={base}", f"--model.lora.target_modules={targets}"]
    arguments = ["fit", f"--config={sft_config('run')}", *flags]
    if named is None:
        main(arguments)
        return
    assert named in fail(arguments, capsys, monkeypatch)
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 988097824\n"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "model.safetensors",
            lambda _: POINTER,
            "model.safetensors is a pointer of git-lfs in place of the file; `git",
        ),
        ("tokenizer.json", lambda _: POINTER, "tokenizer.json is a pointer of git-lfs in place of the file"),
        ("model.safetensors", lambda _: b"", "model.safetensors is not a whole safetensors file"),
        ("model.safetensors", cut, "model.safetensors is not a whole safetensors file"),
        ("model.safetensors", lambda _: struct.pack("<Q", 2**62), "model.safetensors is not a whole safetensors file"),
        ("config.json", lambda _: b"", "config.json is empty; copy or download it again"),
    ],
    ids=["pointer", "tokenizer's pointer", "empty", "cut", "a header too long", "an empty config"],
)
@pytest.mark.parametrize("verb", ["fit", "export"])
def test_files_that_are_not_whole_are_named(
    verb: str,
    name: str,
    spoil: Callable[[bytes], bytes],
    message: str,
    tiny_lm: Path,
    sft_config: ConfigWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = shutil.copytree(tiny_lm, tmp_path / "base")
    (base / name).write_bytes(spoil((base / name).read_bytes()))
    output = [f"--output_dir={tmp_path / 'hf'}"] if verb == "export" else []
    arguments = [verb, f"--config={sft_config('run')}", f"--model.pretrained={base}", *output]
    assert message in fail(arguments, capsys, monkeypatch)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_shape_are_one_line(
    tiny_lm: Path,
    sft_config: ConfigWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = shutil.copytree(tiny_lm, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    error = fail(["fit", f"--config={sft_config('run')}", f"--model.pretrained={base}"], capsys, monkeypatch)
    assert "base holds no whole language model" in error


@pytest.mark.parametrize("spoil", [lambda _: b"", cut, lambda _: POINTER], ids=["empty", "cut", "pointer"])
def test_kept_reference_scores_that_are_not_whole_are_made_again(
    spoil: Callable[[bytes], bytes], preferences: Path, sft_config: ConfigWriter, tmp_path: Path
) -> None:
    root = shutil.copytree(preferences, tmp_path / "pairs")
    dpo = ["--model=models.DPOModule", "--model.lora={r: 2, alpha: 4, dropout: 0.0}", "--data.max_length=256"]
    data = ["--data=data_modules.PreferenceDataModule", f"--data.root={root}"]
    main(["fit", f"--config={sft_config('one')}", *dpo, *data])
    kept = root / "train.reference.safetensors"
    whole = kept.read_bytes()
    kept.write_bytes(spoil(whole))
    main(["fit", f"--config={sft_config('two')}", *dpo, *data])
    assert kept.read_bytes() == whole
    torch.testing.assert_close(*(weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("one", "two")))


def test_preferences_in_half_precision_begin_at_log_two(
    preferences: Path, sft_config: ConfigWriter, tmp_path: Path
) -> None:
    root = shutil.copytree(preferences, tmp_path / "pairs")
    dpo = ["--model=models.DPOModule", "--model.lora={r: 2, alpha: 4, dropout: 0.0}", "--model.optimizer.lr=0.0"]
    data = ["--data=data_modules.PreferenceDataModule", f"--data.root={root}", "--data.max_length=256"]
    cli = main(["fit", f"--config={sft_config('run')}", *dpo, *data, "--trainer.precision=bf16-true"])
    # Batches are as they were scored, or padded otherwise, which moves sums in half precision by a part of a nat.
    assert float(cli.trainer.callback_metrics["val/dpo_loss"]) == pytest.approx(0.6931, abs=0.02)
