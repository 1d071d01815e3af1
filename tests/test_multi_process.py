"""Two processes train what one does with twice the accumulation, and what they leave is what one leaves."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from data_modules import templates
from data_modules.records import Choice, Message, Preference, Prompt, Rewrite, content_id, write_records
from train.cli import main

PROMPTS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("ball", "box", "cone", "cup")]
# One answer to all, so that a mean over tokens is the same mean however the examples are dealt out.
ANSWER = [Message(role="assistant", content="a ball falls slowly.")]
OTHER = [Message(role="assistant", content="a thing.")]


def rewrite(prompt: str) -> Rewrite:
    return Rewrite(content_id(prompt), templates.refactor(prompt), ANSWER)


def preference(prompt: str) -> Preference:
    return Preference(content_id(prompt), templates.refactor(prompt), ANSWER, OTHER, 0.5, "video")


def choice(prompt: str) -> Choice:
    better = "B" if "red" in prompt else "A"
    asked = templates.choose(Prompt("0", prompt), f"{prompt} falls", f"{prompt} rolls")
    scores = {"rapo": float(better == "A"), "direct": float(better == "B")}
    return Choice(content_id(prompt), content_id(prompt), asked, better, scores)


OBJECTIVES: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "sft": ("models.SFTModule", "data_modules.SFTDataModule", rewrite),
    "dpo": ("models.DPOModule", "data_modules.PreferenceDataModule", preference),
    "discriminator": ("models.DiscriminatorModule", "data_modules.DiscriminatorDataModule", choice),
}


@pytest.fixture(params=OBJECTIVES)
def fit(request: pytest.FixtureRequest, tiny_lm: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train three steps on eight records; return the run's folder."""
    module, data, record = OBJECTIVES[request.param]
    # Without dropout, of which each process would draw its own.
    pretrained = shutil.copytree(tiny_lm, tmp_path / "lm")
    settings = json.loads((pretrained / "config.json").read_text())
    (pretrained / "config.json").write_text(json.dumps({**settings, "attention_dropout": 0.0}))
    for split in ("train", "val"):
        write_records(tmp_path / f"data/{split}.jsonl", [record(prompt) for prompt in PROMPTS])
    config = {
        "trainer": {
            "default_root_dir": str(tmp_path),
            "accelerator": "cpu",
            "max_steps": 3,
            "log_every_n_steps": 1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger"},
        },
        "model": {
            "class_path": module,
            "init_args": {
                "pretrained": str(pretrained),
                "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
                # Adam would turn rounding into a step of full size.
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
            },
        },
        "data": {"class_path": data, "init_args": {"root": str(tmp_path / "data"), "batch_size": 2, "max_length": 220}},
        "checkpoint": {"monitor": None},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def run(name: str, *arguments: str) -> Path:
        command = ["fit", f"--config={tmp_path / 'config.yaml'}", f"--trainer.default_root_dir={tmp_path / name}"]
        if "--trainer.devices=2" in arguments:
            in_two_processes([*command, *arguments])
        else:
            main([*command, *arguments])
        return tmp_path / name

    return run


def in_two_processes(command: list[str]) -> None:
    """Run a command in two forks of this process, as torchrun does in two new ones."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    forked = [get_context("fork").Process(target=_run, args=(rank, port, command)) for rank in range(2)]
    for process in forked:
        process.start()
    for process in forked:
        process.join(300)
    assert [process.exitcode for process in forked] == [0, 0]


def _run(rank: int, port: str, command: list[str]) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    main(command)


def weights(root: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(root / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


STRATEGIES = {
    "ddp": ["--trainer.strategy=ddp"],
    "fsdp2": [
        "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
        "--trainer.strategy.data_parallel_size=2",
        "--trainer.strategy.tensor_parallel_size=1",
        "--trainer.strategy.save_distributed_checkpoint=false",
    ],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(
    strategy: str, fit: Callable[..., Path], tmp_path: Path
) -> None:
    two = fit("two", "--trainer.devices=2", *STRATEGIES[strategy])
    one = fit("one", "--trainer.accumulate_grad_batches=2")
    learned, expected = weights(two), weights(one)
    assert learned.keys() == expected.keys()  # adapters alone, by the names that one process gives them
    assert all("lora_" in name for name in learned)
    for name, value in expected.items():
        torch.testing.assert_close(learned[name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))
    assert any(value.abs().max() > 0 for name, value in learned.items() if "lora_B" in name)
    exported = tmp_path / "hf"
    checkpoint = two / "checkpoints/last.ckpt"
    main(["export", f"--config={tmp_path / 'config.yaml'}", f"--ckpt_path={checkpoint}", f"--output_dir={exported}"])
    AutoModelForCausalLM.from_pretrained(exported)
