"""The trainer's flags that people use, each through ``python -m train fit`` with a tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from tests.test_train import fail
from train.cli import main

FLAGS = {
    "no logger": ["--trainer.logger=false"],
    "overfit": ["--trainer.overfit_batches=2"],
    "one batch to try": ["--trainer.fast_dev_run=true"],
    "two batches to try": ["--trainer.fast_dev_run=2"],
    "few batches": ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"],
    "a share of batches": ["--trainer.limit_train_batches=0.5"],
    "no validation": ["--trainer.limit_val_batches=0"],
    "accumulated": ["--trainer.accumulate_grad_batches=3", "--trainer.max_steps=4"],
    "bf16-true": ["--trainer.precision=bf16-true"],
    "16-true": ["--trainer.precision=16-true"],
    "bf16-mixed": ["--trainer.precision=bf16-mixed"],
    "one device": ["--trainer.devices=1"],
    "no checkpoints": ["--trainer.enable_checkpointing=false"],
    "sanity": ["--trainer.num_sanity_val_steps=2"],
    "epochs": ["--trainer.max_epochs=2", "--trainer.max_steps=-1"],
    "minutes": ["--trainer.max_time=00:00:05:00"],
    "deterministic": ["--trainer.deterministic=true"],
    "anomalies": ["--trainer.detect_anomaly=true"],
    "progress": ["--trainer.enable_progress_bar=true", "--trainer.enable_model_summary=true"],
    "clip by value": ["--trainer.gradient_clip_algorithm=value"],
    "reload": ["--trainer.reload_dataloaders_every_n_epochs=1", "--trainer.max_steps=7", "--trainer.max_epochs=2"],
    "inside epochs": ["--trainer.val_check_interval=0.5"],
    "profile": ["--trainer.profiler=simple"],
}


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_trains(flags: str, sft_config: Callable[[str], Path], tmp_path: Path) -> None:
    cli = main(["fit", f"--config={sft_config('run')}", *FLAGS[flags]])
    trainer = cli.trainer
    assert trainer.global_step > 0
    trained = [value for value in cli.model.parameters() if value.requires_grad]
    assert all(bool(torch.isfinite(value).all()) for value in trained)
    assert any(bool(value.abs().max() > 0) for name, value in cli.model.named_parameters() if "lora_B" in name)
    kept = (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert kept != ("to try" in flags or flags == "no checkpoints" or trainer.global_step == 0)
    assert bool(trainer.loggers) == (flags != "no logger")
    if flags == "accumulated":
        assert trainer.global_step == 4
    if "overfit" in flags:
        assert trainer.num_training_batches == 2
        assert isinstance(trainer.logger, CSVLogger)


def test_overfitting_shows_the_same_examples_every_epoch(sft_config: Callable[[str], Path]) -> None:
    flags = ["--trainer.overfit_batches=1", "--trainer.max_epochs=20", "--trainer.max_steps=-1"]
    quick = ["--model.lora=null", "--trainer.check_val_every_n_epoch=20"]
    cli = main(["fit", f"--config={sft_config('run')}", *flags, *quick])
    assert float(cli.trainer.callback_metrics["train/loss"]) < 3  # it starts at about ln 300 = 5.7
    batch = cli.datamodule.collate(cli.datamodule.examples["train"][:4])
    shown = next(iter(cli.trainer.train_dataloader))
    assert torch.equal(shown["input_ids"], batch["input_ids"])


def test_every_weight_in_half_precision(
    sft_config: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model.lora=null", "--model.optimizer.lr=1e-3"]
    cli = main(["fit", f"--config={sft_config('run')}", *flags, "--trainer.precision=bf16-true"])
    assert all(bool(torch.isfinite(value).all()) for value in cli.model.parameters())
    flags += ["--trainer.precision=16-true"]
    error = fail(["fit", f"--config={sft_config('run')}", *flags], capsys, monkeypatch)
    assert "weights in half precision can't be trained" in error


@pytest.mark.parametrize(
    "flags",
    [["--trainer.precison=16"], ["--trainer.overfit_batches=0.5"], ["--trainer.limit_train_batches=0.01"]],
    ids=["unknown", "a share of nothing", "less than a batch"],
)
def test_a_flag_that_can_not_be_is_one_line(
    flags: list[str],
    sft_config: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "error: " in fail(["fit", f"--config={sft_config('run')}", *flags], capsys, monkeypatch)
