"""Accumulated batches and several devices train and validate as one batch on one device does."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD

from data_modules import DiscriminatorDataModule, JSONLDataModule, PreferenceDataModule, SFTDataModule
from data_modules.records import Choice, Prompt, content_id, write_records
from data_modules.templates import choose
from models import DiscriminatorModule, DPOModule, SFTModule
from models.lora import LoRA
from tests.conftest import REWRITES

OBJECTIVES = {
    "sft": (SFTModule, SFTDataModule),
    "dpo": (DPOModule, PreferenceDataModule),
    "discriminator": (DiscriminatorModule, DiscriminatorDataModule),
}
NUM_TRAIN, NUM_VAL = 17, 5  # neither can be shared evenly


@pytest.fixture
def roots(tmp_path: Path, rewrites: Path, preferences: Path) -> dict[str, Path]:
    """Records of each objective, with answers of uneven lengths."""
    choices = [
        Choice(
            content_id(record.id, label),
            record.id,
            choose(Prompt(record.id, record.prompt[0]["content"]), "x slowly", "y"),
            label,
            dict(zip(("a", "b"), (0.9, 0.1) if label == "A" else (0.1, 0.9), strict=True)),
        )
        for record, label in zip(REWRITES, "AABABBBABAABABABBABAABAB", strict=True)
    ]
    roots = {}
    for name, origin in {"sft": rewrites, "dpo": preferences}.items():
        roots[name] = tmp_path / name
        roots[name].mkdir()
        lines = [line for split in ("train", "val") for line in (origin / f"{split}.jsonl").read_text().splitlines()]
        train, val = (NUM_TRAIN, 4) if name == "sft" else (NUM_TRAIN, NUM_VAL)
        (roots[name] / "train.jsonl").write_text("\n".join(lines[:train]) + "\n")
        (roots[name] / "val.jsonl").write_text("\n".join(lines[train : train + val]) + "\n")
    roots["discriminator"] = tmp_path / "discriminator"
    write_records(roots["discriminator"] / "train.jsonl", choices[:NUM_TRAIN])
    write_records(roots["discriminator"] / "val.jsonl", choices[NUM_TRAIN : NUM_TRAIN + NUM_VAL])
    return roots


class Gradients(Callback):
    """What every optimiser step is made from."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.steps.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))


def gradients(
    objective: str, tiny_lm: Path, root: Path, batch_size: int, accumulated: int, **flags: Any
) -> list[torch.Tensor]:
    module_class, data_class = OBJECTIVES[objective]
    torch.manual_seed(3)
    lora = LoRA(r=2, alpha=4, dropout=0.0)
    module = module_class(pretrained=str(tiny_lm), lora=lora, optimizer=lambda p: SGD(p, lr=0.5))
    module.configure_model()
    module.model.config.attention_dropout = 0.0
    for part in module.model.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.0
    data: JSONLDataModule = data_class(pretrained=str(tiny_lm), root=root, batch_size=batch_size)
    watched = Gradients()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accumulate_grad_batches=accumulated,
        callbacks=[watched],
        **flags,
    )
    trainer.fit(module, datamodule=data)
    return watched.steps


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulated_batches_are_one_batch(objective: str, tiny_lm: Path, roots: dict[str, Path]) -> None:
    whole = gradients(objective, tiny_lm, roots[objective], 8, 1)
    assert len(whole) == 3  # 8, 8 and 1
    for batch_size, accumulated in ((4, 2), (2, 4)):
        parts = gradients(objective, tiny_lm, roots[objective], batch_size, accumulated)
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-6)


def test_an_epoch_cut_short_ends_in_a_smaller_step(tiny_lm: Path, roots: dict[str, Path]) -> None:
    # Three batches of 4 in steps of two: the last step has one batch.
    whole, _ = gradients("sft", tiny_lm, roots["sft"], 8, 1, limit_train_batches=2)
    first, last = gradients("sft", tiny_lm, roots["sft"], 4, 2, limit_train_batches=3)
    _, _, alone = gradients("sft", tiny_lm, roots["sft"], 4, 1, limit_train_batches=3)
    torch.testing.assert_close(first, whole, rtol=1e-3, atol=1e-6)
    assert 0.1 < float(last.norm() / alone.norm()) < 10  # of other weights, but not of half the size for its number


CONFIG = """
trainer:
  default_root_dir: {root}
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  gradient_clip_val: null
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
model:
  class_path: models.{module}
  init_args:
    pretrained: {pretrained}
    lora: {{r: 2, alpha: 4, dropout: 0.0}}
    optimizer:
      class_path: torch.optim.SGD
      init_args: {{lr: 0.5}}
data:
  class_path: data_modules.{data}
  init_args: {{root: {records}, batch_size: 8}}
"""


def fit(root: Path, config: Path, *flags: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights after an epoch, and what was logged last, of ``python -m train fit`` in processes of its own."""
    command = [sys.executable, "-m", "train", "fit", f"--config={config}", f"--trainer.default_root_dir={root}", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    values: dict[str, float] = {}
    with (root / "version_0/metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values |= {name: float(value) for name, value in row.items() if value and name.startswith("val/")}
    return torch.load(root / "checkpoints/last.ckpt", weights_only=True)["state_dict"], values


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_devices_are_one(objective: str, tiny_lm: Path, roots: dict[str, Path], tmp_path: Path) -> None:
    module, data = (kind.__name__ for kind in OBJECTIVES[objective])
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_lm.iterdir():
        text = path.read_bytes()
        if path.name == "config.json":
            text = text.replace(b'"attention_dropout": 0.1', b'"attention_dropout": 0.0')
        (base / path.name).write_bytes(text)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(root=tmp_path, module=module, data=data, pretrained=base, records=roots[objective]))
    alone = fit(tmp_path / "one", config)
    two = [
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--data.batch_size=2",
        "--trainer.accumulate_grad_batches=2",
    ]
    together = fit(tmp_path / "two", config, *two)
    assert alone[1].keys() == together[1].keys() != set()
    assert together[1] == pytest.approx(alone[1], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(together[0], alone[0], rtol=1e-3, atol=1e-5)
