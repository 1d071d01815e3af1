"""What a run prints is its own; VERBOSE=1 shows what other libraries say."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import collect.quiet
import train.quiet


def output(*arguments: str, verbose: bool = False) -> str:
    """Run a program as make does, through a pipe; return all that it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VERBOSE": str(int(verbose))}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_training_run_says_what_trains_and_how_it_ended(sft_config: Callable[[str], Path]) -> None:
    shown = ["--trainer.enable_progress_bar=true", "--trainer.enable_model_summary=null"]
    logged = "--trainer.logger=lightning.pytorch.loggers.WandbLogger"
    fit = ["train", "fit", f"--config={sft_config('run')}", *shown, logged, "--trainer.logger.offline=true"]
    quiet = output(*fit)
    assert "\r" not in quiet
    begun, ended = quiet.splitlines()
    assert re.fullmatch(r"training [\d,]+ of [\d,]+ parameters on cpu, steps 0 to 5", begun)
    assert re.fullmatch(r"trained to step 5, val/loss \d\.\d+", ended)
    loud = output(*fit, verbose=True)
    assert "litlogger" in loud
    assert "Epoch" in loud


def test_a_search_says_what_it_found(tmp_path: Path, tiny_lm: Path) -> None:
    lm = {
        "class_path": "collect.backends.TransformersLM",
        "init_args": {"pretrained": str(tiny_lm), "max_new_tokens": 4},
    }
    gate = {"class_path": "collect.intent.IntentGate"}
    config = {
        "prompts": str(tmp_path / "prompts.txt"),
        "output": str(tmp_path / "run"),
        "rounds": 0,
        "num_seeds": 1,
        "generator": {"class_path": "tests.collect.fakes.FakeGenerator"},
        "verifiers": [{"class_path": "tests.collect.fakes.FakeVerifier"}],
        "rewriter": {"class_path": "collect.rewriters.LMRewriter", "init_args": {"language_model": lm, "gate": gate}},
    }
    (tmp_path / "prompts.txt").write_text("a red ball falls\n")
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    run = ["collect", "run", f"--config={tmp_path / 'run.yaml'}"]
    quiet = output(*run)
    assert "\r" not in quiet
    of_ours = (
        "INFO collect.",
        "WARNING collect.",
        "round 0: mean score",
        "1 searches in",
        str(tmp_path),
    )  # whose path is a line of its own
    assert [line for line in quiet.splitlines() if not line.startswith(of_ours)] == []
    loud = output(*run, verbose=True)
    assert "sentence_transformers" in loud


def test_what_this_project_warns_of_is_never_silenced() -> None:
    for names in (train.quiet.LOGGERS, collect.quiet.LOGGERS):
        assert not any(name.split(".")[0] in {"train", "collect", "models", "data_modules"} for name in names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for words in (*train.quiet.WARNINGS, *collect.quiet.WARNINGS):
            warnings.filterwarnings("ignore", words)
        warnings.warn("a warning of ours", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["a warning of ours"]
