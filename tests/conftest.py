"""Tiny checkpoints of the real classes and tiny record files, built once per run."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from wandb.proto import wandb_internal_pb2

from data_modules.records import Preference, Rewrite, content_id, write_records

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLOURS = ("red", "blue", "green", "yellow")
SHAPES = ("ball", "box", "cone")
MOTIONS = ("falls", "rolls")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep the tests off the other cores, and their rounding the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rewrite(colour: str, shape: str, motion: str) -> Rewrite:
    """A short prompt and its caption."""
    prompt = f"a {colour} {shape} {motion}"
    return Rewrite(
        id=content_id(prompt),
        prompt=[{"role": "user", "content": f"Rewrite as a caption: {prompt}"}],
        completion=[{"role": "assistant", "content": f"a {colour} {shape} {motion} slowly. The {shape} is {colour}."}],
    )


REWRITES = [rewrite(colour, shape, motion) for colour in COLOURS for shape in SHAPES for motion in MOTIONS]


@pytest.fixture(autouse=True)
def _only_the_arguments_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command lines read ``sys.argv`` too, which is pytest's here."""
    monkeypatch.setattr(sys, "argv", ["python"])


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template, trained on the rewrites."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,  # few merges, so that texts differ in length
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for record in REWRITES for message in (*record.prompt, *record.completion)]
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Directory of a Qwen2 of some fifty thousand random weights, with dropout in its attention."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        attention_dropout=0.1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    directory = tmp_path_factory.mktemp("tiny_lm")
    Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rewrites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of 18 training, 3 validation and 3 test rewrites."""
    root = tmp_path_factory.mktemp("rewrites")
    val, test = REWRITES[1::8], REWRITES[5::8]
    train = [record for record in REWRITES if record not in (*val, *test)]
    for split, rows in {"train": train, "val": val, "test": test}.items():
        write_records(root / f"{split}.jsonl", rows)
    return root


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of 18 training and 6 validation pairs; the rejected answer says less, and not always in fewer words."""
    root = tmp_path_factory.mktemp("preferences")
    pairs = [
        Preference(
            id=record.id,
            prompt=record.prompt,
            chosen=record.completion,
            rejected=[{"role": "assistant", "content": "a thing " + "is there " * (index % 4 + 1)}],
            margin=0.5,
            kind="video",
        )
        for index, record in enumerate(REWRITES)
    ]
    val = pairs[1::4]
    write_records(root / "train.jsonl", [pair for pair in pairs if pair not in val])
    write_records(root / "val.jsonl", val)
    return root


SFT_CONFIG = """
trainer:
  default_root_dir: {root}
  accelerator: cpu
  max_steps: 5
  max_epochs: -1
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
model:
  class_path: models.SFTModule
  init_args:
    pretrained: {pretrained}
    lora: {{r: 4, alpha: 8, dropout: 0.2}}
    optimizer:
      class_path: torch.optim.AdamW
      init_args: {{lr: 1.0e-2}}
data:
  class_path: data_modules.SFTDataModule
  init_args: {{root: {data}, batch_size: 4, max_length: 96}}
"""


@pytest.fixture
def sft_config(tmp_path: Path, tiny_lm: Path, rewrites: Path) -> Callable[[str], Path]:
    """Write a training config whose run goes to a directory of the given name; return the config's path."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(SFT_CONFIG.format(root=tmp_path / name, pretrained=tiny_lm, data=rewrites))
        return path

    return write


@dataclass
class OfflineRun:
    """What one offline W&B run holds: its config and the logged values of each metric, in order."""

    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)


def _wandb_records(data: bytes) -> Iterator[wandb_internal_pb2.Record]:
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB) after a header of seven bytes."""
    position, record = 7, b""
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if position > len(data):
            return  # its end is not written yet
        if kind in {1, 4}:  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@pytest.fixture(scope="session")
def read_wandb() -> Callable[[Path], OfflineRun]:
    """Read the one finished offline run below a directory back."""

    def read(root: Path) -> OfflineRun:
        (path,) = root.glob("wandb/offline-run-*/run-*.wandb")
        records = list(_wandb_records(path.read_bytes()))
        deadline = time.monotonic() + 60
        while not any(record.HasField("exit") for record in records):  # another process writes, and may be behind
            assert time.monotonic() < deadline, f"{path} has no end; was the run finished?"
            time.sleep(0.1)
            records = list(_wandb_records(path.read_bytes()))
        run = OfflineRun()
        for record in records:
            for item in (*record.run.config.update, *record.config.update):
                run.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            for logged in record.history.item:
                name = logged.key or "/".join(logged.nested_key)
                run.history.setdefault(name, []).append(json.loads(logged.value_json))
        return run

    return read
