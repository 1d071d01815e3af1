"""All three stages through the command lines a user types, with the committed configs and small counts."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import wandb
from transformers import pipeline

import collect.__main__
import train.cli
from collect.backends.transformers_lm import TransformersLM
from collect.intent.gate import IntentGate
from collect.rewriters.lm import LMRewriter
from collect.search.trajectories import read_trajectories
from data_modules.records import Result, Rewrite, read_records
from data_modules.toyworld.__main__ import write
from tests.command_lines import commands, make
from tests.conftest import OfflineRun

ROOT = Path(__file__).parents[1]
CONFIGS = Path("configs/toy")
OUT = Path("outputs/toy")
BASELINES = {"raw", "direct", "stage1", "sspo", "best_of_n"}
LENIENT = [
    "--preference.min_gap_deviations=0",
    "--preference.min_gap_errors=0",
    "--preference.max_length_ratio=4",
    "--rewriter=null",
]
MINED_AND_COMPARED = ("stage2_collect", "evaluate_search")


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every stage has run once, on a few prompts."""
    home = tmp_path_factory.mktemp("home")
    for name in ("configs", "models"):
        (home / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        wandb.teardown()  # its service resolves relative paths against the folder it was started in
        write(OUT / "data", num_captions=40, num_train_prompts=24, num_val_prompts=2, num_test_prompts=4)
        use(patch, "pairs", "stage1_pairs")
        fit_and_export(patch, "stage1_rewriter", steps=20)
        use(patch, "run", "stage2_collect", "--limit=12", "--rounds=1", "--num_seeds=2")
        use(patch, "mine", "stage2_mine", *LENIENT)
        fit_and_export(patch, "stage3_sft", steps=4)
        fit_and_export(patch, "stage3_dpo", steps=4)
        held_out = [f"--prompts={OUT}/data/prompts/test.jsonl", f"--output={OUT}/evaluate_search"]
        where = f"--logger.init_args.save_dir={OUT}/evaluate_search"
        use(patch, "run", "stage2_collect", *held_out, where, "--limit=4", "--rounds=1", "--num_seeds=2")
        use(patch, "evaluate", "evaluate", "--limit=4", "--num_seeds=1")
        yield home / OUT
        wandb.teardown()


def use(patch: pytest.MonkeyPatch, verb: str, config: str, *arguments: str) -> None:
    """Run ``python -m collect``."""
    patch.setattr(sys, "argv", ["collect", verb, f"--config={CONFIGS}/{config}.yaml", *arguments])
    collect.__main__.main()


def fit_and_export(patch: pytest.MonkeyPatch, stage: str, steps: int, *arguments: str, output: Path = OUT) -> None:
    """Run ``python -m train fit`` and ``export``."""
    patch.setattr(sys, "argv", ["train"])
    config = [f"--config={CONFIGS}/{stage}.yaml", *arguments]
    short = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps // 2}", "--data.batch_size=4"]
    quiet = [
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
    ]
    train.cli.main(["fit", *config, *short, *quiet])
    wandb.finish()  # as the end of the process does
    best = output / stage / "checkpoints/best.ckpt"
    train.cli.main(["export", *config, f"--ckpt_path={best}", f"--output_dir={output / stage / 'hf'}"])


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
    assert methods.keys() == BASELINES | {"sft", "dpo"}
    assert methods["raw"]["gain"]["mean"] == 0.0
    assert methods["sspo"]["videos_per_prompt"] > methods["dpo"]["videos_per_prompt"] == 1.0
    assert methods["sspo"]["videos_per_prompt"] == methods["best_of_n"]["videos_per_prompt"]
    results = read_records(toy_run / "evaluate/results.jsonl", Result)
    seeds = {(r.prompt_id, r.seed) for r in results if r.method in methods and r.method != "best_of_n"}
    assert len(seeds) == summary["num_prompts"] == 4  # all methods that answer with a text share them
    for name, row in methods.items():
        scores = [result.scores["alignment"] for result in results if result.method == name]
        assert len(scores) == 4
        assert row["score"]["mean"] == pytest.approx(sum(scores) / len(scores))
    numbers = [r["number"] for r in summary["rounds"]]
    assert numbers in ([0], [0, 1])  # a search ends before its one round if nothing can improve
    assert summary["rounds"][-1]["search"] == methods["sspo"]["score"]
    assert (toy_run / "evaluate/score_by_videos.png").stat().st_size > 10_000


def test_the_search_that_is_compared_is_the_one_that_is_mined(toy_run: Path) -> None:
    mined, compared = (json.loads((toy_run / name / "done.json").read_text()) for name in MINED_AND_COMPARED)
    same = mined.keys() - {"prompts"} - {key for key in mined if key.startswith("collect/")}
    assert {"generator", "verifiers", "rewriter", "proposer", "rounds", "num_seeds", "patience"} <= same
    assert {key: mined[key] for key in same} == {key: compared[key] for key in same}
    assert mined["prompts"] != compared["prompts"]


@pytest.mark.parametrize(
    ("stage", "metrics"),
    [
        ("stage1_pairs", {"pairs/kept"}),
        ("stage1_rewriter", {"train/loss", "val/loss", "lr-AdamW"}),
        ("stage2_collect", {"collect/score", "collect/raw_score", "collect/videos"}),
        ("stage2_mine", {"mine/sft/improved", "mine/sft/kept", "mine/preference/clear", "mine/preference/kept"}),
        ("stage3_sft", {"train/loss", "val/loss", "lr-AdamW"}),
        ("stage3_dpo", {"train/loss", "train/rewards/margins", "val/loss", "val/rewards/accuracies"}),
        ("evaluate_search", {"collect/score", "collect/raw_score", "collect/videos"}),
        ("evaluate", {"eval/raw/score", "eval/dpo/score", "eval/dpo/intent_kept", "eval/score_by_videos/count"}),
    ],
)
def test_every_stage_logs_offline(
    toy_run: Path, read_wandb: Callable[[Path], OfflineRun], stage: str, metrics: set[str]
) -> None:
    history = read_wandb(toy_run / stage).history
    assert metrics <= history.keys()


@pytest.mark.slow
def test_a_second_round_begins_where_the_first_ended(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_run.parents[1])
    here = OUT / "round2"
    here.mkdir()
    prompts = (OUT / "data/prompts/train.jsonl").read_text().splitlines(keepends=True)
    (here / "prompts.jsonl").write_text("".join(prompts[12:]))
    planned = make(
        Path(), "-n", f"--file={ROOT / 'Makefile'}", "INSTALLED=configs", "--old-file=configs", "ROUND=2", "evaluate"
    )
    given = {}  # by config, after it
    for command in commands(planned):
        if "round2" in command and " export " not in command:
            _, _, _, _, _, config, *arguments = shlex.split(command)
            given[Path(config).stem] = arguments
    made = [path for path in OUT.rglob("*") if path.is_file() and here not in path.parents]
    before = {path: path.stat().st_mtime_ns for path in made if "wandb" not in path.parts}  # which keeps logging
    use(monkeypatch, "run", "stage2_collect", *given["stage2_collect"], "--rounds=1", "--num_seeds=2")
    use(monkeypatch, "mine", "stage2_mine", *given["stage2_mine"], *LENIENT)
    fit_and_export(monkeypatch, "stage3_sft", 4, *given["stage3_sft"], output=here)
    fit_and_export(monkeypatch, "stage3_dpo", 4, *given["stage3_dpo"], output=here)
    use(monkeypatch, "evaluate", "evaluate", *given["evaluate"], "--limit=4", "--num_seeds=1")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # round 1 is as it was
    searches, _ = read_trajectories(here / "stage2_collect")
    first, _ = read_trajectories(OUT / "stage2_collect")
    assert {s.prompt.id for s in searches}.isdisjoint(s.prompt.id for s in first)
    tuned = TransformersLM(str(OUT / "stage3_dpo/hf"), batch_size=16, max_new_tokens=64)
    expected = LMRewriter(tuned, IntentGate()).rewrite([search.prompt for search in searches])
    rewritten = [next((c.text for c in s.candidates if c.proposal.origin == "rewriter"), s.raw.text) for s in searches]
    assert rewritten == expected
    methods = {row["method"] for row in json.loads((here / "evaluate/summary.json").read_text())["methods"]}
    assert {"sft", "dpo"} <= methods <= {"sft", "dpo", "sft before", "dpo before", *BASELINES}
