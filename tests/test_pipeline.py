"""All three stages through the command lines a user types, with the committed configs and small counts."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import wandb
from transformers import pipeline

import collect.__main__
import train.cli
from data_modules.records import Result, Rewrite, read_records
from data_modules.toyworld.__main__ import write
from tests.conftest import OfflineRun

ROOT = Path(__file__).parents[1]
OUT = Path("outputs/toy")


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every stage has run once, on a few prompts."""
    home = tmp_path_factory.mktemp("home")
    for name in ("configs", "models"):
        (home / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        wandb.teardown()  # its service resolves relative paths against the folder it was started in
        write(OUT / "data", num_captions=40, num_train_prompts=12, num_val_prompts=2, num_test_prompts=4)
        use(patch, "pairs", "stage1_pairs")
        fit_and_export(patch, "stage1_rewriter", steps=20)
        use(patch, "run", "stage2_collect", "--limit=12", "--rounds=1", "--num_seeds=2")
        lenient = ["--preference.min_gap_deviations=0", "--preference.min_gap_errors=0"]
        use(patch, "mine", "stage2_mine", *lenient, "--preference.max_length_ratio=4", "--rewriter=null")
        fit_and_export(patch, "stage3_sft", steps=4)
        fit_and_export(patch, "stage3_dpo", steps=4)
        small = ["--limit=4", "--num_seeds=1", "--search.rounds=1", "--search.num_seeds=1"]
        use(patch, "evaluate", "evaluate", *small)
        yield home / OUT
        wandb.teardown()


def use(patch: pytest.MonkeyPatch, verb: str, config: str, *arguments: str) -> None:
    """Run ``python -m collect``."""
    patch.setattr(sys, "argv", ["collect", verb, f"--config=configs/toy/{config}.yaml", *arguments])
    collect.__main__.main()


def fit_and_export(patch: pytest.MonkeyPatch, stage: str, steps: int) -> None:
    """Run ``python -m train fit`` and ``export``."""
    patch.setattr(sys, "argv", ["train"])
    config = f"--config=configs/toy/{stage}.yaml"
    short = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps // 2}", "--data.batch_size=4"]
    quiet = [
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
    ]
    train.cli.main(["fit", config, *short, *quiet])
    wandb.finish()  # as the end of the process does
    best = OUT / stage / "checkpoints/best.ckpt"
    train.cli.main(["export", config, f"--ckpt_path={best}", f"--output_dir={OUT / stage / 'hf'}"])


def test_every_rewriter_loads_in_transformers_and_answers(toy_run: Path) -> None:
    record = read_records(toy_run / "stage2_mine/sft/train.jsonl", Rewrite)[0]
    for stage in ("stage1_rewriter", "stage3_sft", "stage3_dpo"):
        rewriter = pipeline("text-generation", str(toy_run / stage / "hf"), dtype=torch.float32)
        answer = rewriter(record.prompt, max_new_tokens=48, do_sample=False)[0]["generated_text"][-1]
        assert answer["role"] == "assistant"
        assert len(answer["content"].split()) > 3


def test_every_method_is_scored_on_every_held_out_prompt(toy_run: Path) -> None:
    summary = json.loads((toy_run / "evaluate/summary.json").read_text())
    methods = {row["method"]: row for row in summary["methods"]}
    assert methods.keys() == {"raw", "direct", "stage1", "sspo", "tuned"}
    assert methods["raw"]["gain"] == 0.0
    assert methods["sspo"]["videos_per_prompt"] > methods["tuned"]["videos_per_prompt"] == 1.0
    results = read_records(toy_run / "evaluate/results.jsonl", Result)
    assert len(results) == len(methods) * summary["num_prompts"]
    seeds = {(result.prompt_id, result.seed) for result in results}
    assert len(seeds) == summary["num_prompts"]  # all methods share them
    for name, row in methods.items():
        scores = [result.scores["alignment"] for result in results if result.method == name]
        assert row["score"] == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize(
    ("stage", "metrics"),
    [
        ("stage1_pairs", {"pairs/kept"}),
        ("stage1_rewriter", {"train/loss", "val/loss", "lr-AdamW"}),
        ("stage2_collect", {"collect/score", "collect/raw_score", "collect/videos"}),
        ("stage2_mine", {"mine/sft/improved", "mine/sft/kept", "mine/preference/clear", "mine/preference/kept"}),
        ("stage3_sft", {"train/loss", "val/loss", "lr-AdamW"}),
        ("stage3_dpo", {"train/loss", "train/rewards/margins", "val/loss", "val/rewards/accuracies"}),
        ("evaluate", {"eval/raw/score", "eval/tuned/score", "eval/tuned/intent_kept"}),
    ],
)
def test_every_stage_logs_offline(
    toy_run: Path, read_wandb: Callable[[Path], OfflineRun], stage: str, metrics: set[str]
) -> None:
    history = read_wandb(toy_run / stage).history
    assert metrics <= history.keys()
