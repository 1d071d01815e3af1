"""Training speed and memory side by side with TRL: same network, examples, order, batch, precision and one thread.

``make bench`` runs both trainers in turn, each run a process of its own, and prints one JSON line per objective:
medians over the pairs of runs of tokens or pairs per second and their ratio, and the largest peak of resident memory.
TRL runs with its defaults, but for dropout, precision and what reports to the outside. The first step of a run is
not timed. ``reference_seconds`` is what the reference's log-probabilities cost before the first step, once per data
set and network; TRL computes them in every step.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from string import ascii_lowercase
from typing import Any

import pytest
import torch
import transformers
import trl
from datasets import Dataset
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from data_modules import PreferenceDataModule, SFTDataModule
from data_modules.records import Messages, Preference, Rewrite, read_records, write_records
from models import DPOModule, SFTModule
from models.lora import LoRA

pytestmark = pytest.mark.bench

VOCABULARY = 32000
PROMPT_WORDS, ANSWER_WORDS = (100, 200), (60, 100)
BATCH_SIZE, STEPS = 4, 5
NUM_PAIRS = 3  # of runs, one of each trainer in turn
LORA = LoRA(r=16, alpha=32, dropout=0.0)
TARGETS = {"sft": 1.3, "dpo": 1.7}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def write_inputs(root: Path) -> None:
    """A Qwen2 of 13 million random weights, and records of random words of three letters, each of which is a token."""
    space = "\u0120"  # how byte-level BPE writes a space
    letters = [(space, letter) for letter in ascii_lowercase]
    merges = [*letters, *((space + a, b) for a in ascii_lowercase for b in ascii_lowercase)]
    merges += [(space + a + b, c) for a in ascii_lowercase for b in ascii_lowercase for c in ascii_lowercase]
    words = [(first + last).removeprefix(space) for first, last in merges if len(first) == 3]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, *(first + last for first, last in merges)]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<|im_start|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    ).save_pretrained(root / "lm")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(root / "lm")
    draw = random.Random(0)

    def said(role: str, bounds: tuple[int, int]) -> Messages:
        return [{"role": role, "content": " ".join(draw.choices(words, k=draw.randint(*bounds)))}]

    ids = [str(index) for index in range(BATCH_SIZE * STEPS)]
    rewrites = [Rewrite(i, said("user", PROMPT_WORDS), said("assistant", ANSWER_WORDS)) for i in ids]
    pairs = [Preference(r.id, r.prompt, r.completion, said("assistant", ANSWER_WORDS), 1.0, "video") for r in rewrites]
    for split in ("train", "val"):
        write_records(root / "sft" / f"{split}.jsonl", rewrites)
        write_records(root / "dpo" / f"{split}.jsonl", pairs)


class Clock:
    """Wall and processor time from the end of the first step to that of the last."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.steps.append((time.perf_counter(), time.process_time()))

    def spent(self) -> dict[str, float]:
        assert len(self.steps) == STEPS
        (wall, processor), (wall_end, processor_end) = self.steps[0], self.steps[-1]
        return {"seconds": wall_end - wall, "processor_seconds": processor_end - processor}


class LightningClock(Clock, Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        self.tick()


class TRLClock(Clock, TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.tick()


def run_ours(objective: str, root: Path) -> dict[str, float]:
    def optimizer(parameters: Any) -> AdamW:
        return AdamW(parameters, lr=1e-4, weight_decay=0.0)

    data_module = {"sft": SFTDataModule, "dpo": PreferenceDataModule}[objective]
    data = data_module(pretrained=str(root / "lm"), root=root / objective, batch_size=BATCH_SIZE, max_length=512)
    module_class = {"sft": SFTModule, "dpo": DPOModule}[objective]
    module = module_class(pretrained=str(root / "lm"), lora=LORA, optimizer=optimizer)
    clock, reference = LightningClock(), 0.0
    shuffled = data.train_dataloader

    def in_order() -> DataLoader[Any]:
        nonlocal reference
        begin = time.process_time()
        shuffled()
        reference = time.process_time() - begin
        return DataLoader(data.examples["train"], BATCH_SIZE, collate_fn=data.collate)

    data.train_dataloader = in_order  # type: ignore[method-assign,assignment]
    Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=[clock],
        default_root_dir=root,
    ).fit(module, datamodule=data)
    return {**clock.spent(), "reference_seconds": reference}


def run_trl(objective: str, root: Path) -> dict[str, float]:
    settings: dict[str, Any] = {
        "output_dir": str(root / "trl"),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": 1e-4,
        "train_sampling_strategy": "sequential",
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": STEPS,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    shared = {
        "model": AutoModelForCausalLM.from_pretrained(root / "lm"),
        "processing_class": AutoTokenizer.from_pretrained(root / "lm"),
        "peft_config": LORA.to_peft(SFTModule.task_type),
    }
    trainer: SFTTrainer | DPOTrainer
    if objective == "sft":
        rewrites = read_records(root / "sft/train.jsonl", Rewrite)
        rows = [{"prompt": r.prompt, "completion": r.completion} for r in rewrites]
        trainer = SFTTrainer(args=SFTConfig(**settings), train_dataset=Dataset.from_list(rows), **shared)
    else:
        pairs = read_records(root / "dpo/train.jsonl", Preference)
        rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in pairs]
        trainer = DPOTrainer(args=DPOConfig(**settings), train_dataset=Dataset.from_list(rows), **shared)
    clock = TRLClock()
    trainer.add_callback(clock)
    trainer.train()
    return {**clock.spent(), "reference_seconds": 0.0}


def timed_units(objective: str, root: Path) -> int:
    """Tokens without padding, or pairs, of the timed steps."""
    data = SFTDataModule(pretrained=str(root / "lm"), root=root / "sft")
    data.setup("fit")
    lengths = [len(example["input_ids"]) for example in data.examples["train"]]
    assert min(lengths) > PROMPT_WORDS[0] + ANSWER_WORDS[0]
    assert max(lengths) < PROMPT_WORDS[1] + ANSWER_WORDS[1] + 30  # roles and control tokens
    return sum(lengths[BATCH_SIZE:]) if objective == "sft" else BATCH_SIZE * (STEPS - 1)


def worker(trainer: str, objective: str, root: Path) -> None:
    torch.set_num_threads(1)
    spent = {"ours": run_ours, "trl": run_trl}[trainer](objective, root)
    spent["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (root / "result.json").write_text(json.dumps(spent))


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_training_side_by_side_with_trl(objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path)
    units = timed_units(objective, tmp_path)
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for number in range(NUM_PAIRS):
        for trainer in ("ours", "trl") if number % 2 else ("trl", "ours"):
            for kept in (tmp_path / objective).glob("*.reference.safetensors"):
                kept.unlink()
            command = [sys.executable, __file__, trainer, objective, str(tmp_path)]
            subprocess.run(command, check=True, capture_output=True, env=environment)
            runs[trainer].append(json.loads((tmp_path / "result.json").read_text()))
    rates = {name: [units / run["processor_seconds"] for run in of_one] for name, of_one in runs.items()}
    peaks = {name: max(run["peak_mib"] for run in of_one) for name, of_one in runs.items()}
    ratio = median(own / other for own, other in zip(rates["ours"], rates["trl"], strict=True))
    unit = {"sft": "tokens", "dpo": "pairs"}[objective]
    row = {
        "objective": objective,
        f"{unit}_per_processor_second": {name: round(median(values), 2) for name, values in rates.items()},
        f"{unit}_per_second": {n: round(median(units / r["seconds"] for r in rs), 2) for n, rs in runs.items()},
        "ratio": round(ratio, 2),
        "target": TARGETS[objective],
        "peak_mib": {name: round(peak) for name, peak in peaks.items()},
        "reference_seconds": round(median(run["reference_seconds"] for run in runs["ours"]), 2),
        "batch": BATCH_SIZE,
        "timed_steps": STEPS - 1,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
    }
    with capsys.disabled():
        Console().print_json(json.dumps(row), indent=None)


if __name__ == "__main__":
    worker(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
