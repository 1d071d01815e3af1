"""Secrets of the environment reach nothing that is written or shown."""

import logging
import sys
from pathlib import Path

import pytest

import collect.__main__
from collect.protocols import Verdict
from collect.search.export import export
from collect.search.retries import BackendError
from collect.search.run import run
from data_modules.records import Rewrite, write_records
from data_modules.secrets import redacted
from tests.collect.fakes import FakeGenerator, FakeVerifier
from train.__main__ import run as run_trainer

SECRETS = {"OPENAI_API_KEY": "sk-planted-1234567", "HF_TOKEN": "hf_planted_abcdefgh", "WANDB_API_KEY": "f" * 39 + "0"}
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def leaks(folder: Path, *texts: str) -> list[str]:
    """Where a secret is, whole or in its last half."""
    parts = [value[-len(value) // 2 :] for value in SECRETS.values()]
    found = [
        str(path)
        for path in folder.rglob("*")
        if path.is_file()
        for part in parts
        if part.encode() in path.read_bytes()
    ]
    return found + [text for text in texts for part in parts if part in text]


class Echoing(FakeVerifier):
    """Repeats keys, as servers do in what they answer."""

    def judge(self, prompts, videos):
        said = f"Incorrect API key provided: {SECRETS['OPENAI_API_KEY']}."
        logging.getLogger("collect").warning(said)
        return [Verdict.failed(said) if "sea" in p.prompt else Verdict({"a": 0.5}, said) for p in prompts]


def test_stores_logs_and_exports_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect.__main__, "VERBS", {"run": lambda: search(tmp_path)})
    monkeypatch.setattr(sys, "argv", ["collect", "run"])
    collect.__main__.main()
    shown = capsys.readouterr()
    assert "<OPENAI_API_KEY>" in shown.err
    assert not leaks(tmp_path, *shown)


def search(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a red box\nthe sea\n")
    run(folder / "prompts.txt", folder / "out", FakeGenerator(), [Echoing("echo")], rounds=0)
    export(folder / "out", folder / "exported", "jsonl")


def test_an_error_that_ends_a_command_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FakeGenerator):
        def generate(self, requests) -> None:
            raise RuntimeError(f"{SECRETS['HF_TOKEN']} is no valid token")

    def failing() -> None:
        (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
        run(tmp_path / "prompts.txt", tmp_path / "out", Broken(), [FakeVerifier("fake")], rounds=0)

    monkeypatch.setattr(collect.__main__, "VERBS", {"run": failing})
    monkeypatch.setattr(sys, "argv", ["collect", "run"])
    with pytest.raises((SystemExit, BackendError)):
        collect.__main__.main()
    shown = capsys.readouterr()
    assert "<HF_TOKEN> is no valid token" in shown.err
    assert not leaks(tmp_path, *shown)


@pytest.mark.slow
def test_a_training_its_config_wandb_run_checkpoints_and_export_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"role": "user", "content": "a box"}], [{"role": "assistant", "content": "A box."}]
    for split in ("train", "val"):
        write_records(tmp_path / f"data/{split}.jsonl", [Rewrite("a", *turns), Rewrite("b", *turns)])
    options = {
        "model": "models.SFTModule",
        "model.pretrained": ROOT / "models/toy/lm",
        "data": "data_modules.SFTDataModule",
        "data.root": tmp_path / "data",
        "trainer.default_root_dir": tmp_path / "out",
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.logger.init_args.offline": "true",
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "fit", *(f"--{name}={value}" for name, value in options.items())])
    assert run_trainer() == 0
    config, checkpoint = tmp_path / "out/config.yaml", tmp_path / "out/checkpoints/best.ckpt"
    arguments = [f"--config={config}", f"--ckpt_path={checkpoint}", f"--output_dir={tmp_path / 'hf'}"]
    monkeypatch.setattr(sys, "argv", ["train", "export", *arguments])
    run_trainer()
    assert (tmp_path / "hf/README.md").is_file()
    assert not leaks(tmp_path, *capsys.readouterr())


def test_what_is_short_or_no_secret_stays() -> None:
    assert redacted("path and sk-planted-1234567") == "path and <OPENAI_API_KEY>"
    assert redacted("offline") == "offline"
