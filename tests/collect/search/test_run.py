"""collect run: from a file of prompts to trajectories, and what is refused before it starts."""

import json
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

import collect.__main__
from collect import tracking
from collect.backends.diffusers_generator import DiffusersGenerator
from collect.backends.identity import identify
from collect.prompts import read_prompts
from collect.search.run import run
from collect.search.trajectories import read_trajectories
from collect.verifiers import FlowVerifier
from data_modules.records import Prompt, content_id, write_records
from tests.collect.fakes import FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red box\nx falls\nthe sea at night\n")
    return path


def search(prompts: Path, output: Path, **changes) -> None:
    settings = {"generator": FakeGenerator(), "verifiers": [FakeVerifier()], "rewriter": FakeRewriter()}
    run(prompts, output, **(settings | {"proposer": FakeProposer(), "rounds": 2} | changes))


def test_a_run_leaves_finished_trajectories(prompts: Path, tmp_path: Path) -> None:
    search(prompts, tmp_path / "out")
    searches, settings = read_trajectories(tmp_path / "out")
    assert [s.prompt.prompt for s in searches] == prompts.read_text().splitlines()
    assert settings["rounds"] == 2
    assert json.loads((tmp_path / "out/done.json").read_text()).items() >= settings.items()
    database = sqlite3.connect(tmp_path / "out/trajectories.sqlite")
    videos = [name for (name,) in database.execute("SELECT video FROM renders")]
    database.close()
    assert len(videos) == 2 * sum(len(s.candidates) for s in searches)
    assert all((tmp_path / "out" / name).is_file() for name in videos)


def test_real_pipelines_run_through_the_loop_and_resume_without_rendering(
    prompts: Path, tmp_path: Path, latte: Path
) -> None:
    generator = DiffusersGenerator(str(latte), 1, 2.0, num_frames=4, height=16, width=16, batch_size=4)
    settings = {"generator": generator, "verifiers": [FlowVerifier()], "rounds": 1}
    search(prompts, tmp_path / "out", **settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/videos").iterdir()}
    search(prompts, tmp_path / "out", **settings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/videos").iterdir()} == before
    searches, _ = read_trajectories(tmp_path / "out")
    assert all(s.champion is s.raw for s in searches)  # flow does not rank
    assert searches[0].raw.assessment.observations.keys() == {"flow/continuity", "flow/movement", "flow/smoothness"}


def test_a_rewriter_that_was_trained_again_is_not_mixed_with_what_the_old_one_wrote(
    prompts: Path, tmp_path: Path
) -> None:
    class Retrained(FakeRewriter):
        def rewrite(self, prompts):
            return [f"{text} now" for text in super().rewrite(prompts)]

    Retrained.__name__ = FakeRewriter.__name__
    search(prompts, tmp_path / "out")
    with pytest.raises(ValueError, match="begun with another rewriter: 'a red box' becomes 'a red box here now' now"):
        search(prompts, tmp_path / "out", rewriter=Retrained())


def test_every_kind_of_prompt_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a box\n\n  a ball \n")
    (tmp_path / "p.csv").write_text('captions,phys_law\na box,"Due to gravity, it falls."\na ball,\n')
    (tmp_path / "q.csv").write_text("id,prompt\n1,a box\n2,a ball\n")
    write_records(tmp_path / "p.jsonl", [Prompt("1", "a box"), Prompt("2", "a ball")])
    for name in ("p.txt", "p.csv", "q.csv", "p.jsonl"):
        assert [p.prompt for p in read_prompts(tmp_path / name)] == ["a box", "a ball"]
    assert [p.task for p in read_prompts(tmp_path / "p.csv")] == ["Due to gravity, it falls.", None]
    assert [p.prompt for p in read_prompts(tmp_path / "p.txt", limit=1)] == ["a box"]


def test_unusable_and_repeated_prompts_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.txt"
    path.write_text(f"a box\n?!...\n{'long ' * 2000}\na box\n赤い箱\n")
    assert [p.prompt for p in read_prompts(path)] == ["a box", "赤い箱"]
    assert "p.txt:2 is skipped: '?!...' has no letter or digit" in caplog.text
    assert "has 9999 characters, more than 2000" in caplog.text
    assert "2 of 5 prompts skipped, 1 repeated" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "holds no prompts"),
        ("p.txt", "?!\n...\n", "holds no usable prompt: each of its 2 has no letter or digit"),
        ("p.csv", "text\na box\n", "has columns text; one must be captions or prompt"),
        ("p.jsonl", '{"prompt": "a b', "is not JSON"),
        ("p.json", "[]", r"is of no known kind; expected prompts as \.jsonl, \.txt or \.csv"),
    ],
)
def test_prompt_files_without_prompts_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": -1}, "rounds must be at least 0, got -1"),
        ({"num_seeds": 0}, "num_seeds must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"budget": 1}, "budget must be a multiple of num_seeds, which is 2 videos a text, got 1"),
        ({"budget": 5}, "budget must be a multiple of num_seeds, which is 2 videos a text, got 5"),
        ({"proposer": None}, "rounds is 2 but there is no proposer"),
        ({"verifiers": []}, "verifiers is empty"),
        ({"verifiers": [FakeVerifier(), FakeVerifier()]}, "distinct names, got fake, fake"),
    ],
)
def test_settings_that_make_no_sense_are_refused(prompts: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(prompts, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


class NotedGenerator(FakeGenerator):
    def __init__(self, batch_size: int, note: str | None = None) -> None:
        super().__init__(batch_size)


class CountedGenerator(FakeGenerator):
    instances = 0

    def __init__(self) -> None:
        super().__init__()
        CountedGenerator.instances += 1


class OtherProposer(FakeProposer):
    pass


class Unloadable(FakeGenerator):
    """Stands for a model that takes minutes to load."""

    def __init__(self) -> None:
        pytest.fail("loaded before the prompts were checked")


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), ("!!\n", "holds no usable prompt")])
def test_the_command_refuses_bad_prompts_in_one_line_before_anything_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    message: str,
) -> None:
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_text(content)
    config = tmp_path / "run.yaml"
    backend = {"class_path": f"{__name__}.Unloadable"}
    verifier = {"class_path": "tests.collect.fakes.FakeVerifier"}
    config.write_text(
        json.dumps({"prompts": str(path), "output": str(tmp_path), "generator": backend, "verifiers": [verifier]})
    )
    monkeypatch.setattr(sys, "argv", ["collect", "run", "--config", str(config)])
    with pytest.raises(SystemExit) as exit_:
        collect.__main__.main()
    assert exit_.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line


def test_the_command_runs_a_config(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "prompts": str(prompts),
        "output": str(tmp_path / "out"),
        "generator": {"class_path": "tests.collect.fakes.FakeGenerator", "init_args": {"batch_size": 2}},
        "verifiers": [{"class_path": "tests.collect.fakes.FakeVerifier"}],
        "proposer": {"class_path": "tests.collect.fakes.FakeProposer"},
        "rounds": 1,
        "limit": 2,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    monkeypatch.setattr(sys, "argv", ["collect", "run", "--config", str(tmp_path / "run.yaml")])
    collect.__main__.main()
    assert len(read_trajectories(tmp_path / "out")[0]) == 2


@pytest.mark.parametrize(
    ("backend", "change", "message"),
    [
        ("verifiers", {"ceiling": 6.0}, r"backends\.verifiers was"),
        ("alternatives", {"word": "watch"}, r"backends\.alternatives\.other\.word was 'see' and is now 'watch'"),
        ("proposer", {"class_path": f"{__name__}.OtherProposer"}, "proposer was 'FakeProposer' and is now 'Other"),
        ("generator", {"note": "sharper"}, r"backends\.generator\.note was None and is now 'sharper'"),
    ],
)
def test_every_backend_that_is_changed_between_two_starts_is_noticed(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, backend: str, change: dict, message: str
) -> None:
    config = {
        "prompts": str(prompts),
        "output": str(tmp_path / "out"),
        "generator": {"class_path": f"{__name__}.NotedGenerator", "init_args": {"batch_size": 2}},
        "verifiers": [{"class_path": "tests.collect.fakes.FakeVerifier", "init_args": {"ceiling": 12.0}}],
        "alternatives": {"other": {"class_path": "tests.collect.fakes.FakeAlternative", "init_args": {"word": "see"}}},
        "proposer": {"class_path": "tests.collect.fakes.FakeProposer"},
        "rounds": 1,
    }

    def start() -> None:
        (tmp_path / "run.yaml").write_text(json.dumps(config))
        monkeypatch.setattr(sys, "argv", ["collect", "run", "--config", str(tmp_path / "run.yaml")])
        collect.__main__.main()

    start()
    config["generator"]["init_args"]["batch_size"] = 3  # how fast is not what
    start()
    changed = {"verifiers": config["verifiers"][0], "alternatives": config["alternatives"]["other"]}.get(
        backend, config[backend]
    )
    changed.update(change) if "class_path" in change else changed["init_args"].update(change)
    with pytest.raises(SystemExit):
        start()
    assert re.search(message, capsys.readouterr().err)


def test_a_model_trained_again_in_the_same_folder_is_another_one(tmp_path: Path) -> None:
    config = {
        "class_path": "collect.backends.TransformersLM",
        "init_args": {"pretrained": str(tmp_path), "device": "cpu", "temperature": 1.0},
    }
    (tmp_path / "model.safetensors").write_bytes(b"old")
    first = identify(config)
    assert first["temperature"] == 1.0
    assert identify(config | {"init_args": config["init_args"] | {"device": "cuda:1"}}) == first
    (tmp_path / "model.safetensors").write_bytes(b"new")
    assert identify(config) != first
    negative = "\u4e11\u964b\u7684" * 80  # no folder could have such a name
    assert identify({"negative_prompt": negative}) == {"negative_prompt": negative}


def test_a_budget_bounds_the_videos_of_every_prompt(prompts: Path, tmp_path: Path) -> None:
    generator = FakeGenerator()
    search(prompts, tmp_path / "out", generator=generator, rounds=5, patience=5, budget=6)
    searches, _ = read_trajectories(tmp_path / "out")
    assert [len(s.candidates) for s in searches] == [3, 3, 3]  # of two videos each
    assert len(generator.made) == 18


def test_prompts_whose_names_are_numbers_are_found_again(tmp_path: Path) -> None:
    """The published demo names its videos 0000001, reads 1 back and judges them all again."""
    (tmp_path / "p.csv").write_text("id,captions\n0000001,a red box\n0000002,0000002\n")
    made = []
    for _ in range(2):
        generator = FakeGenerator()
        search(tmp_path / "p.csv", tmp_path / "out", generator=generator)
        made.append(len(generator.made))
    assert made[0] > 0
    assert made[1] == 0
    assert [s.prompt.prompt for s in read_trajectories(tmp_path / "out")[0]] == ["a red box", "0000002"]


def test_every_verdict_is_a_number_in_the_database(prompts: Path, tmp_path: Path) -> None:
    """The published demo asks its model for a score from 1 to 5 and never reads it."""
    search(prompts, tmp_path / "out")
    database = sqlite3.connect(tmp_path / "out/trajectories.sqlite")
    scores = [json.loads(row) for (row,) in database.execute("SELECT scores FROM verdicts")]
    database.close()
    assert scores
    assert all(0 <= value <= 1 for row in scores for value in row.values())


def test_the_last_round_ends_with_an_answer_no_worse_than_what_the_user_wrote(prompts: Path, tmp_path: Path) -> None:
    """The published demo keeps no record of the best prompt: its log ends with whatever was written last."""

    class Spoiler(FakeProposer):
        def propose(self, prompts, current, critiques, histories, *, seed):
            return [[f"{text} zzz {seed}"] for text in current]

    search(prompts, tmp_path / "out", rewriter=None, proposer=Spoiler())
    database = sqlite3.connect(tmp_path / "out/trajectories.sqlite")
    champions = database.execute("SELECT prompts.prompt, text FROM champions JOIN prompts ON id = prompt_id").fetchall()
    database.close()
    assert len(champions) == 3
    assert all(prompt == text for prompt, text in champions)


def test_each_backend_is_made_once_for_the_whole_run(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published demo loads its language model and its judge from disk at every call."""
    config = {
        "prompts": str(prompts),
        "output": str(tmp_path / "out"),
        "generator": {"class_path": f"{__name__}.CountedGenerator"},
        "verifiers": [{"class_path": "tests.collect.fakes.FakeVerifier"}],
        "proposer": {"class_path": "tests.collect.fakes.FakeProposer"},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    monkeypatch.setattr(sys, "argv", ["collect", "run", "--config", str(tmp_path / "run.yaml")])
    CountedGenerator.instances = 0
    collect.__main__.main()
    assert CountedGenerator.instances == 1


def test_each_round_and_the_trajectories_are_logged_offline(
    prompts: Path, tmp_path: Path, latte: Path, read_wandb: Callable
) -> None:
    generator = DiffusersGenerator(str(latte), 1, 2.0, num_frames=4, height=16, width=16, batch_size=4)
    logger = WandbLogger(project="rapo", group="test", offline=True, save_dir=str(tmp_path / "logs"))
    verifiers = [FlowVerifier()]
    search(prompts, tmp_path / "out", generator=generator, verifiers=verifiers, rounds=1, logger=logger)
    assert (logger.experiment.job_type, logger.experiment.group) == ("collect", "test")
    history = read_wandb(tmp_path / "logs").history
    # 3 raw prompts and 2 rewrites, 2 seeds each; then 2 proposals for each prompt.
    assert history["collect/videos"] == [10, 10 + 12]
    assert history["collect/fallbacks"] == [1, 1]
    assert len(history["collect/score"]) == 2
    assert history["collect/trajectories/nrows"] == [11]
    assert wandb.run is None  # finished: the next command starts its own


def test_without_a_login_an_online_logger_goes_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_wandb: Callable
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with tracking.start(WandbLogger(project="rapo", save_dir=str(tmp_path)), "mine") as tracked:
        tracked.log({"mine/kept": 3.0})
    assert read_wandb(tmp_path).history["mine/kept"] == [3.0]


def test_content_ids_of_prompts_tell_tasks_apart(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,task\na box,it falls\na box,it floats\n")
    first, second = read_prompts(tmp_path / "p.csv")
    assert first.id == content_id("a box", "it falls") != second.id
