"""Exports in older versions of transformers, each installed to a folder of its own, against today's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from models.compatibility import older_config, older_tokenizer_config
from tests.conftest import REWRITES
from train.cli import main

# The oldest that is promised, with what it was released with, and the last of version 4.
VERSIONS = {
    "4.49.0": ["tokenizers==0.21.4", "huggingface_hub==0.36.0"],
    "4.57.6": ["tokenizers==0.22.2", "huggingface_hub==0.36.0"],
}
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
BASES = {
    "a base of 10^6": Qwen2ForCausalLM(
        Qwen2Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    ),
    "scaled positions": LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        )
    ),
}
# Loads as Wan2.1 does, in the precision of the files, and computes in single precision to compare.
SCRIPT = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, messages = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto")
dtype, model = str(model.dtype), model.float().eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = tokenizer([text], return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0, -1].tolist()
written = model.generate(**inputs, max_new_tokens=12)[0].tolist()
print(json.dumps({"version": transformers.__version__, "dtype": dtype, "text": text, "logits": logits,
    "ids": inputs.input_ids[0].tolist(), "written": written, "special": sorted(tokenizer.all_special_tokens)}))
"""


def read(folder: Path, library: Path | None) -> dict:
    path = os.pathsep.join(filter(None, [str(library) if library else ""]))
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), json.dumps(REWRITES[0].prompt * 5)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=VERSIONS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an older version, beside this environment's torch."""
    folder = tmp_path_factory.mktemp("library")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, f"transformers=={request.param}", *VERSIONS[request.param]], check=True)
    return folder


@pytest.mark.slow
def test_an_older_version_reads_the_same(
    library: Path, tokenizer: PreTrainedTokenizerFast, sft_config: Callable[[str], Path], tmp_path: Path
) -> None:
    for name, model in BASES.items():
        torch.manual_seed(0)
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3)
        base, hf = tmp_path / name, tmp_path / f"{name}, exported"
        model.to(torch.bfloat16).save_pretrained(base)
        special = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            extra_special_tokens=["<|im_start|>"],
            chat_template=tokenizer.chat_template,
        )
        special.save_pretrained(base)
        main(["export", f"--config={sft_config('run')}", f"--model.pretrained={base}", f"--output_dir={hf}"])
        newest, older = read(hf, None), read(hf, library)
        assert older.pop("version").startswith("4.")
        assert newest.pop("version").startswith("5.")
        assert older["dtype"] == "torch.bfloat16"
        torch.testing.assert_close(older.pop("logits"), newest.pop("logits"), rtol=1e-4, atol=1e-4)
        assert older == newest


def test_the_newest_version_reads_its_own_names(tmp_path: Path) -> None:
    for name, model in BASES.items():
        model.config.save_pretrained(tmp_path / name)
        before = AutoConfig.from_pretrained(tmp_path / name)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(older_config(json.loads(path.read_text()))))
        after = AutoConfig.from_pretrained(tmp_path / name)
        assert after.rope_parameters == before.rope_parameters
        assert after.dtype == before.dtype


def test_older_names_say_the_same() -> None:
    sliding = {"rope_type": "default", "rope_theta": 1e4}
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    nested = {
        "model_type": "gemma3",
        "dtype": "bfloat16",
        "text_config": {
            "model_type": "gemma3_text",
            "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
        },
    }
    config = older_config(nested)
    assert config["torch_dtype"] == "bfloat16"
    text = config["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"]) == (1e6, 1e4)
    assert text["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert older_config(config) == config
    partial = older_config(
        {"rope_parameters": {"rope_theta": 5e4, "partial_rotary_factor": 0.5, "rope_type": "default"}}
    )
    assert (partial["rope_theta"], partial["partial_rotary_factor"]) == (5e4, 0.5)
    assert "rope_scaling" not in partial
    tokenizer = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"]}
    assert older_tokenizer_config(tokenizer) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
    }
