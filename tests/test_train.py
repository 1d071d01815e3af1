"""The trainer program through its command line."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import models.sft
from data_modules import SFTDataModule
from models import SFTModule
from tests.conftest import REWRITES
from train.__main__ import run
from train.callbacks import RandomState, SampleRewrites
from train.cli import main

ConfigWriter = Callable[[str], Path]


def logged(root: Path, metric: str) -> dict[int, float]:
    """Values of a metric by step, from the newest CSV log."""
    version = max(root.glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    with (version / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[metric]) for row in csv.DictReader(file) if row.get(metric)}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def fail(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command that must end with exit code 2; return its last line."""
    monkeypatch.setattr(sys, "argv", ["python", *arguments])
    try:
        code = run()
    except SystemExit as stop:  # jsonargparse ends the program itself
        code = stop.code
    assert code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_fit_trains_and_leaves_checkpoints_and_config(sft_config: ConfigWriter, tmp_path: Path) -> None:
    config = sft_config("run")
    every_weight = ["--model.lora=null", "--model.optimizer.lr=3e-3"]
    main(["fit", f"--config={config}", "--trainer.max_epochs=6", "--trainer.max_steps=-1", *every_weight])
    losses = logged(tmp_path / "run", "val/loss")
    assert list(losses) == [4, 9, 14, 19, 24, 29]  # 18 examples in batches of 4: 5 steps an epoch, counted from 0
    assert losses[29] < losses[4] - 1
    assert logged(tmp_path / "run", "val/token_accuracy")[29] > 0.3
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    assert "class_path: models.SFTModule" in (tmp_path / "run" / "version_0" / "config.yaml").read_text()


def test_validate_and_test_score_a_checkpoint(sft_config: ConfigWriter, tmp_path: Path) -> None:
    config = sft_config("run")
    main(["fit", f"--config={config}"])
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    trained = logged(tmp_path / "run", "val/loss")[4]
    main(["validate", f"--config={config}", f"--ckpt_path={best}"])
    assert list(logged(tmp_path / "run", "val/loss").values()) == [trained]
    main(["test", f"--config={config}", f"--ckpt_path={best}"])
    assert logged(tmp_path / "run", "test/loss")


def run_and_kill(command: list[str], killed_when: Path) -> None:
    """Start a training run and kill it, without warning, once it has written a file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 120
    while not killed_when.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()


def test_a_killed_run_resumes_to_the_unbroken_one(sft_config: ConfigWriter, tmp_path: Path) -> None:
    # 18 examples in batches of 4: an epoch has 5 steps. Saved at 3, 6 and so on, so in the middle of epochs.
    often = ["--resume.every_n_train_steps=3", "--trainer.max_steps=3000", "--trainer.limit_val_batches=1"]
    killed, last = sft_config("killed"), tmp_path / "killed" / "checkpoints" / "last.ckpt"
    run_and_kill([sys.executable, "-m", "train", "fit", f"--config={killed}", *often], killed_when=last)
    reached = torch.load(last, weights_only=True)["global_step"]
    assert reached % 3 == 0
    often[1] = f"--trainer.max_steps={reached + 9}"

    main(["fit", f"--config={killed}", *often, f"--ckpt_path={last}"])
    main(["fit", f"--config={sft_config('unbroken')}", *often])

    for metric in ("train/loss", "val/loss"):
        resumed, unbroken = (logged(tmp_path / name, metric) for name in ("killed", "unbroken"))
        assert resumed == {step: unbroken[step] for step in resumed}
    assert list(logged(tmp_path / "killed", "train/loss")) == list(range(reached, reached + 9))
    torch.testing.assert_close(weights(last), weights(tmp_path / "unbroken/checkpoints/last.ckpt"), rtol=0, atol=0)


ENDS = {  # an epoch has 5 steps, or 3 with accumulated gradients
    "in an epoch": (["--trainer.max_steps=7"], ["--trainer.max_steps=9"], 7),
    "with an epoch": (
        ["--trainer.max_steps=-1", "--trainer.max_epochs=2", "--trainer.accumulate_grad_batches=2"],
        ["--trainer.max_steps=-1", "--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=2"],
        6,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_finished_run_can_be_resumed_and_lengthened(end: str, sft_config: ConfigWriter, tmp_path: Path) -> None:
    short, long, steps = ENDS[end]
    config, last = sft_config("run"), tmp_path / "run" / "checkpoints" / "last.ckpt"
    main(["fit", f"--config={config}", *short])
    assert torch.load(last, weights_only=True)["global_step"] == steps
    written, trained = last.stat().st_mtime_ns, weights(last)

    assert main(["fit", f"--config={config}", *short, f"--ckpt_path={last}"]).trainer.global_step == steps
    assert last.stat().st_mtime_ns == written

    longer = main(["fit", f"--config={config}", *long, f"--ckpt_path={last}"])
    assert longer.trainer.global_step > steps
    assert not all(torch.equal(weights(last)[name], value) for name, value in trained.items())
    main(["fit", f"--config={sft_config('unbroken')}", *long])
    torch.testing.assert_close(weights(last), weights(tmp_path / "unbroken/checkpoints/last.ckpt"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "last", "first"),
    [
        (["--trainer.max_steps=4"], 4, 5),
        (["--trainer.max_steps=7", "--trainer.check_val_every_n_epoch=2"], 7, 10),
        (["--trainer.max_steps=9", "--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=10"], 9, 10),
        (["--trainer.max_steps=2", "--trainer.accumulate_grad_batches=2"], 4, 5),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=2"], 5, 10),
    ],
)
def test_a_run_without_validation_is_refused_before_training(
    settings: list[str],
    last: int,
    first: int,
    sft_config: ConfigWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = fail(["fit", f"--config={sft_config('run')}", *settings], capsys, monkeypatch)
    assert f"would end after {last} batches, before the first validation after {first}, and leave no best.ckpt" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


MODES = {
    "steps": ["--trainer.max_steps=12"],
    "epochs": ["--trainer.max_steps=-1", "--trainer.max_epochs=3"],
    "validation inside epochs": [
        "--trainer.max_steps=12",
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.val_check_interval=3",
    ],
    "accumulated gradients": ["--trainer.max_steps=6", "--trainer.accumulate_grad_batches=2"],
    "loader processes": ["--trainer.max_steps=12", "--data.num_workers=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_step_can_be_resumed_from(mode: str, sft_config: ConfigWriter, tmp_path: Path) -> None:
    def every_step(directory: Path) -> list[str]:
        return [
            "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
            f"--trainer.callbacks.dirpath={directory}",
            "--trainer.callbacks.filename={step}",
            "--trainer.callbacks.every_n_train_steps=1",
            "--trainer.callbacks.save_top_k=-1",
        ]

    main(["fit", f"--config={sft_config('unbroken')}", *MODES[mode], *every_step(tmp_path / "all")])
    steps = len(list((tmp_path / "all").iterdir()))
    for step in range(1, steps):
        name = f"from_{step}"
        start = f"--ckpt_path={tmp_path / 'all' / f'step={step}.ckpt'}"
        main(["fit", f"--config={sft_config(name)}", *MODES[mode], *every_step(tmp_path / f"all_{name}"), start])
        for metric in ("train/loss", "val/loss"):
            unbroken = logged(tmp_path / "unbroken", metric)
            assert logged(tmp_path / name, metric).items() <= unbroken.items(), f"{metric} from step {step}"
        ends = [weights(tmp_path / directory / f"step={steps}.ckpt") for directory in (f"all_{name}", "all")]
        torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_checkpoints_hold_adapters_only(sft_config: ConfigWriter, tmp_path: Path) -> None:
    main(["fit", f"--config={sft_config('run')}", "--resume.every_n_train_steps=5"])
    assert all("lora_" in name for name in weights(tmp_path / "run" / "checkpoints" / "last.ckpt"))


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "adapter"])
def test_export_answers_as_trained(merge: bool, sft_config: ConfigWriter, tmp_path: Path) -> None:
    config, hf = sft_config("run"), tmp_path / "run" / "hf"
    main(["fit", f"--config={config}", "--resume.every_n_train_steps=5"])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    cli = main(
        ["export", f"--config={config}", f"--ckpt_path={last}", f"--output_dir={hf}", f"--merge={str(merge).lower()}"]
    )
    tokenizer = AutoTokenizer.from_pretrained(hf)
    loader = AutoModelForCausalLM if merge else AutoPeftModelForCausalLM
    asked = models.sft.render(tokenizer, REWRITES[0].prompt)
    written, text = models.sft.answer(loader.from_pretrained(hf), tokenizer, asked)

    trained = type(cli.model)(pretrained=cli.model.pretrained, lora=cli.model.lora)
    trained.configure_model()
    trained.load_state_dict(weights(last), strict=False)
    expected, expected_text = models.sft.answer(trained.model, tokenizer, asked)
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-4)
    assert text == expected_text
    untrained = AutoModelForCausalLM.from_pretrained(cli.model.pretrained)
    assert not torch.allclose(written, models.sft.answer(untrained, tokenizer, asked)[0], atol=1e-2), "nothing learned"

    names = {path.name for path in hf.iterdir()}
    weight_file = "model.safetensors" if merge else "adapter_model.safetensors"
    assert {weight_file, "tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".ckpt")) for name in names)
    assert GenerationConfig.from_pretrained(hf).eos_token_id == tokenizer.eos_token_id
    assert [path.name for path in hf.parent.iterdir() if "hf" in path.name] == ["hf"]
    card = (hf / "README.md").read_text()
    assert "18 records" in card
    assert "5 optimiser steps" in card
    assert "Rewrite as a caption: a red ball falls" in card


def test_export_is_loadable_by_the_next_stage(sft_config: ConfigWriter, tmp_path: Path) -> None:
    config, hf = sft_config("run"), tmp_path / "hf"
    main(["export", f"--config={config}", f"--output_dir={hf}"])
    main(["fit", f"--config={sft_config('next')}", f"--model.pretrained={hf}"])
    assert logged(tmp_path / "next", "train/loss")


def test_an_export_that_answers_otherwise_is_refused(
    sft_config: ConfigWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, hf = sft_config("run"), tmp_path / "hf"
    main(["export", f"--config={config}", f"--output_dir={hf}"])
    before = (hf / "model.safetensors").read_bytes()

    export = models.LoRAModule.export

    def spoiled(self: models.LoRAModule, directory: Path, merge: bool, dtype: torch.dtype | None) -> None:
        export(self, directory, merge, dtype)
        written = AutoModelForCausalLM.from_pretrained(directory)
        torch.nn.init.normal_(written.model.embed_tokens.weight)
        written.save_pretrained(directory)

    monkeypatch.setattr(models.LoRAModule, "export", spoiled)
    with pytest.raises(ValueError, match="nothing was exported"):
        main(["export", f"--config={config}", f"--output_dir={hf}"])
    assert (hf / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "hf" in path.name] == ["hf"]


def test_an_unknown_key_is_refused(
    sft_config: ConfigWriter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sft_config("run")
    config.write_text(config.read_text().replace("max_length", "maximum_length"))
    assert "maximum_length" in fail(["fit", f"--config={config}"], capsys, monkeypatch)


def test_a_missing_data_file_is_named(
    sft_config: ConfigWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["fit", f"--config={sft_config('run')}", f"--data.root={tmp_path / 'nowhere'}"]
    error = fail(arguments, capsys, monkeypatch)
    assert re.match(r"error: .*nowhere/train.jsonl does not exist; `python -m collect` writes it", error)
    assert not (tmp_path / "run").exists()


def test_a_missing_model_is_named(
    sft_config: ConfigWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["fit", f"--config={sft_config('run')}", f"--model.pretrained={tmp_path / 'hf'}"]
    assert re.match(
        r"error: .*/hf gives no tokenizer; set model.init_args.pretrained", fail(arguments, capsys, monkeypatch)
    )


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99], ids=["empty", "half", "all but the end"])
@pytest.mark.parametrize("verb", ["fit", "export"])
def test_a_half_written_checkpoint_is_refused_before_anything_is_loaded(
    kept: float,
    verb: str,
    sft_config: ConfigWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, half = tmp_path / "whole.ckpt", tmp_path / "half.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}, "global_step": 1, "callbacks": {}}, whole)
    half.write_bytes(whole.read_bytes()[: int(kept * whole.stat().st_size)])
    monkeypatch.setattr(models.sft.SFTModule, "__init__", None)  # not even built
    output = [f"--output_dir={tmp_path / 'hf'}"] if verb == "export" else []
    error = fail([verb, f"--config={sft_config('run')}", f"--ckpt_path={half}", *output], capsys, monkeypatch)
    assert re.match(r"error: .*half.ckpt is not a whole checkpoint \(.*\); give another one of ", error)


def test_a_missing_checkpoint_is_named(
    sft_config: ConfigWriter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = fail(["fit", f"--config={sft_config('run')}", "--ckpt_path=gone.ckpt"], capsys, monkeypatch)
    assert re.match(r"error: gone.ckpt does not exist; `python -m train fit` writes", error)


def test_a_checkpoint_of_another_module_is_refused(
    sft_config: ConfigWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, last = sft_config("run"), tmp_path / "run" / "checkpoints" / "last.ckpt"
    main(["fit", f"--config={config}", "--resume.every_n_train_steps=5"])
    checkpoint = torch.load(last, weights_only=True)
    torch.save({**checkpoint, "module": "DPOModule"}, tmp_path / "other.ckpt")
    for verb in (["fit"], ["export", f"--output_dir={tmp_path / 'hf'}"]):
        arguments = [*verb, f"--config={config}", f"--ckpt_path={tmp_path / 'other.ckpt'}"]
        assert fail(arguments, capsys, monkeypatch) == (
            "error: the checkpoint was written by DPOModule, not by SFTModule; name the module it fits."
        )
    other_rank = ["fit", f"--config={config}", f"--ckpt_path={last}", "--model.lora.r=8"]
    assert re.match(r"error: the checkpoint's .*lora_A.* has shape \(4, 32\)", fail(other_rank, capsys, monkeypatch))


def test_an_offline_run_holds_metrics_config_and_rewrites(
    sft_config: ConfigWriter, tmp_path: Path, read_wandb: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SILENT"]:
        monkeypatch.delenv(name)
    config = sft_config("run")
    text = config.read_text().replace("  logger:\n    class_path: lightning.pytorch.loggers.CSVLogger\n", "")
    config.write_text(text)
    sample = ["--trainer.callbacks+=train.callbacks.SampleRewrites", "--trainer.callbacks.num_samples=2"]
    sample += ["--trainer.callbacks.max_new_tokens=5"]
    cli = main(
        [
            "fit",
            f"--config={config}",
            "--trainer.val_check_interval=2",
            "--trainer.check_val_every_n_epoch=null",
            *sample,
        ]
    )
    cli.trainer.logger.experiment.finish()

    run = read_wandb(tmp_path / "run")
    assert len(run.history["train/loss"]) == 5
    assert len(run.history["val/loss"]) == 2
    assert run.history["lr-AdamW"] == [0.01] * 5
    assert run.config["model"]["init_args"]["lora"] == {
        "r": 4,
        "alpha": 8,
        "dropout": 0.2,
        "target_modules": "all-linear",
    }
    first, _ = (tmp_path / "run").glob("wandb/offline-run-*/files/media/table/val/rewrites_*.table.json")
    table = json.loads(first.read_text())
    assert table["columns"] == ["step", "prompt", "rewrite", "reference"]
    assert [row[1] for row in table["data"]] == [
        "Rewrite as a caption: a red ball rolls",
        "Rewrite as a caption: a blue box rolls",
    ]


@pytest.mark.filterwarnings("ignore:.*resume.* will be ignored", "ignore:The dirpath has changed")
def test_a_resumed_training_continues_its_wandb_run(
    sft_config: ConfigWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SILENT"]:
        monkeypatch.delenv(name)
    config = sft_config("run")
    text = config.read_text().replace("  logger:\n    class_path: lightning.pytorch.loggers.CSVLogger\n", "")
    config.write_text(text)
    last = tmp_path / "run/checkpoints/last.ckpt"

    def run_id(*arguments: str) -> str:
        cli = main(["fit", f"--config={config}", *arguments])
        run_id = str(cli.trainer.logger.experiment.id)
        cli.trainer.logger.experiment.finish()
        return run_id

    first = run_id()
    assert (last.parent / "wandb_id.txt").read_text().strip() == first
    assert run_id(f"--ckpt_path={last}", "--trainer.max_steps=7") == first
    assert run_id(f"--ckpt_path={last}", "--trainer.max_steps=9") == first
    elsewhere = [f"--ckpt_path={last}", "--trainer.max_steps=11", f"--trainer.default_root_dir={tmp_path / 'other'}"]
    anew = run_id("--trainer.logger.init_args.name=anew")
    assert len({first, run_id(*elsewhere), anew}) == 3  # another folder, or another start, is another run
    names = [path.name for path in (tmp_path / "run/wandb").glob("offline-run-*")]
    assert sum(name.endswith(first) for name in names) == 3


def test_sampling_rewrites_needs_a_run_that_writes_them() -> None:
    with pytest.raises(ValueError, match="SampleRewrites needs an SFTModule and an SFTDataModule, got LightningModule"):
        SampleRewrites().setup(Trainer(logger=False), LightningModule(), "fit")


def test_rewrites_are_sampled_greedily_whatever_the_base_is_set_to(
    tiny_lm: Path, rewrites: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_lm, tmp_path / "base")
    GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=1.3, no_repeat_ngram_size=1, min_new_tokens=9
    ).save_pretrained(tmp_path / "base")
    data = SFTDataModule(pretrained=str(tiny_lm), root=rewrites)
    data.setup("fit")
    answers = []
    for base in (tiny_lm, tmp_path / "base"):
        module = SFTModule(pretrained=str(base))
        module.configure_model()
        module.eval()
        before = torch.get_rng_state()
        answers.append(SampleRewrites(num_samples=3, max_new_tokens=12)._answers(module, data))
        assert torch.equal(torch.get_rng_state(), before)
    assert answers[0] == answers[1]


def test_random_states_come_back_through_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - libraries draw from it
    torch.save(RandomState().state_dict(), tmp_path / "state.pt")

    def drawn() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), float(np.random.rand())  # noqa: NPY002

    expected = drawn()
    callback = RandomState()
    callback.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    callback.on_train_start(Trainer(logger=False), LightningModule())
    assert drawn() == expected
    callback.on_train_start(Trainer(logger=False), LightningModule())  # once only
    assert drawn() != expected
