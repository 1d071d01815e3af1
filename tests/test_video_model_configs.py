"""The configs of real video models: their settings fit the classes they are for, and their stages run on tiny ones."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import yaml

from collect.backends import CommandGenerator, DiffusersGenerator
from collect.backends.pipeline_call import FRAMES
from tests.collect.backends import tiny_pipelines
from tests.command_lines import make
from tests.test_makefile import planning

ROOT = Path(__file__).parents[1]
# The class that each checkpoint names, and that of its scheduler.
PIPELINES = {
    "cogvideox": ("CogVideoXPipeline", "CogVideoXDDIMScheduler"),
    "hunyuanvideo": ("HunyuanVideoPipeline", "FlowMatchEulerDiscreteScheduler"),
    "hunyuanvideo1.5": ("HunyuanVideo15Pipeline", "FlowMatchEulerDiscreteScheduler"),
    "latte": ("LattePipeline", "DDIMScheduler"),
    "ltx": ("LTXPipeline", "FlowMatchEulerDiscreteScheduler"),
    "wan2.1": ("WanPipeline", "UniPCMultistepScheduler"),
    "wan2.2": ("WanPipeline", "UniPCMultistepScheduler"),
}
PROGRAMS = ("lavie", "open-sora-plan")
RATIOS = {"CogVideoXPipeline": 8, "LTXPipeline": 8}  # frames a latent frame stands for, where not 4


def settings(size: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / size / "generator.yaml").read_text())


def test_every_video_model_has_its_folder() -> None:
    there = {folder.name for folder in (ROOT / "configs").glob("*/")}
    assert there == {"toy", *PIPELINES, *PROGRAMS}


@pytest.mark.parametrize("size", PIPELINES)
def test_the_settings_of_a_model_are_ones_its_pipeline_takes(size: str) -> None:
    config = settings(size)
    assert config["class_path"] == "collect.backends.DiffusersGenerator"
    given = config["init_args"]
    assert given.keys() <= inspect.signature(DiffusersGenerator).parameters.keys()
    pipeline, scheduler = PIPELINES[size]
    kind = getattr(diffusers, pipeline)
    accepted = inspect.signature(kind.__call__).parameters.keys()
    assert given.get("call_kwargs", {}).keys() <= accepted
    assert "negative_prompt" in accepted
    assert accepted & set(FRAMES)
    changes = dict(given.get("scheduler", {}))
    scheduler = changes.pop("class_name", scheduler)
    assert changes.keys() <= inspect.signature(getattr(diffusers, scheduler).__init__).parameters.keys()
    assert pipeline == "LattePipeline" or (given["num_frames"] - 1) % RATIOS.get(pipeline, 4) == 0
    assert given["height"] % 16 == given["width"] % 16 == 0
    precisions = given["dtype"] if isinstance(given["dtype"], dict) else {"default": given["dtype"]}
    assert set(precisions) - {"default"} <= inspect.signature(kind.__init__).parameters.keys()


@pytest.mark.parametrize("size", PROGRAMS)
def test_the_settings_of_a_program_are_ones_the_generator_takes(size: str) -> None:
    config = settings(size)
    assert config["class_path"] == "collect.backends.CommandGenerator"
    assert config["init_args"].keys() <= inspect.signature(CommandGenerator).parameters.keys()


@pytest.mark.parametrize("size", [*PIPELINES, *PROGRAMS])
def test_the_first_lines_say_which_gpu_and_what_a_run_costs(size: str) -> None:
    text = (ROOT / "configs" / size / "generator.yaml").read_text()
    head = " ".join(line.removeprefix("# ") for line in text.partition("class_path")[0].splitlines())
    assert re.match(r"\S.*GPU of \d+ GB.*by its makers", head)
    assert re.search(r"up to [\d,]+ GPU hours for a run|0\.6 GPU hours for each second", head)


def test_what_a_user_must_bring_is_said(tmp_path: Path) -> None:
    clone = planning(tmp_path)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        make(clone, "-n", "train", "SIZE=wan2.1")
    assert "SIZE=wan2.1 needs CAPTIONS=FILE" in refused.value.stderr
    (tmp_path / "c.txt").touch()
    (tmp_path / "p.txt").touch()
    planned = make(clone, "-n", "train", "SIZE=wan2.1", "CAPTIONS=c.txt", "PROMPTS=p.txt")
    assert any("collect data --captions c.txt --prompts p.txt --output outputs/wan2.1/data" in line for line in planned)


# What makes a config of a real model one of a tiny model: ids, places, and amounts.
TINY = [
    (r"cuda:\d", "cpu"),
    (r"accelerator: gpu\n  precision: bf16-mixed\n  accumulate_grad_batches: 8", "accelerator: cpu"),
    (r"dtype: bfloat16[^\n}]*", "dtype: float32"),
    (r"memory: .*", ""),
    (r"Qwen/Qwen3-4B-Instruct-2507", str(ROOT / "models/toy/lm")),
    (r"max_new_tokens: 512", "max_new_tokens: 64"),
    (r"collect\.verifiers\.VLMVerifier\ninit_args: .*", "tests.collect.fakes.HashVerifier"),
    (r"num_inference_steps: \d+", "num_inference_steps: 1"),
    (r"num_frames: \d+", "num_frames: 9"),
    (r"(height|width): \d+", r"\1: 32"),
    (r"max_steps: \d+", "max_steps: 4"),
    (r"val_check_interval: \d+", "val_check_interval: 2"),
    (r"warmup_steps: \d+, total_steps: \d+", "warmup_steps: 1, total_steps: 4"),
    (r"max_length: 1024", "max_length: 384"),
    (r"limit: 40", "limit: 6"),
    (r"min_similarity: 0\.5", "min_similarity: 0.3"),
    (r"r: 64, alpha: 64", "r: 2, alpha: 2"),
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("size", "name", "pretrained"),
    [("wan2.1", "wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), ("cogvideox", "cogvideox", "THUDM/CogVideoX-5b")],
)
def test_every_stage_runs_on_a_tiny_model(size: str, name: str, pretrained: str, tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    clone = planning(tmp_path / "clone")
    model = tiny_pipelines.save(name, tmp_path / "model")
    for config in (clone / "configs" / size).glob("*.yaml"):
        text = config.read_text().replace(pretrained, str(model))
        for pattern, tiny in TINY:
            text = re.sub(pattern, tiny, text)
        config.write_text(text)
    for package in ("collect", "data_modules", "models", "tests", "train"):
        (clone / package).symlink_to(ROOT / package)
    (clone / ".venv/bin").mkdir()
    (clone / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (clone / ".venv/bin/python").chmod(0o755)
    subprocess.run(
        [sys.executable, "-m", "data_modules.toyworld", "--output_dir", str(tmp_path / "world")], cwd=ROOT, check=True
    )
    captions, prompts = tmp_path / "captions.jsonl", tmp_path / "prompts.jsonl"
    for source, target, count in (("captions", captions, 60), ("prompts/train", prompts, 40)):
        lines = (tmp_path / f"world/{source}.jsonl").read_text().splitlines(keepends=True)
        target.write_text("".join(lines[:count]))
    given = [f"SIZE={size}", f"CAPTIONS={captions}", f"PROMPTS={prompts}", "HELD_OUT=3", "SEEDS=1"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    for target in ("train", "discriminator"):
        subprocess.run(["make", "--no-print-directory", target, *given], cwd=clone, env=one_thread, check=True)
    out = clone / "outputs" / size
    for made in ("stage1_discriminator/choice.json", "stage3_dpo/hf/config.json", "evaluate/summary.json"):
        assert (out / made).is_file(), made
