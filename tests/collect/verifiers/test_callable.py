"""A function of the user's judges videos: named by import path, refused early where it is not there or not right."""

import importlib
import json
import linecache
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from jsonargparse import capture_parser

import collect.__main__
import collect.verifiers.callable
from collect.backends.identity import identify
from collect.backends.video import Video, write_video
from collect.protocols import Verdict
from collect.search.trajectories import read_trajectories
from collect.verifiers import CallableVerifier
from data_modules.records import Prompt

ROOT = Path(__file__).parents[3]
PROMPT = Prompt("0", "a red box", "it must fall")


def brightness(prompt: Prompt, frames: Video) -> float:
    assert prompt == PROMPT
    return float(frames.mean() / 255)


def with_words(prompt: Prompt, frames: Video) -> tuple[np.float32, str]:
    return np.float32(0.5), f"{len(frames)} frames for {prompt.prompt}, which {prompt.task}."


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_video(tmp_path / "v.mp4", np.full((4, 16, 16, 3), 51, np.uint8))
    return tmp_path / "v.mp4"


def test_a_function_gives_a_score_or_a_score_and_words(video: Path) -> None:
    dark = CallableVerifier(brightness, "brightness", ranked=False)
    assert (dark.name, dark.ranked) == ("brightness", False)
    [verdict, _] = dark.judge([PROMPT, PROMPT], [video, video])
    assert verdict.scores == {"score": pytest.approx(0.2, abs=0.01)}
    assert verdict.critique == ""
    [verdict] = CallableVerifier(with_words, "words").judge([PROMPT], [video])
    assert verdict == Verdict({"score": 0.5}, "4 frames for a red box, which it must fall.")


@pytest.mark.parametrize(
    "opinion", [None, "0.5", 1.5, -0.1, float("nan"), (0.5, None), (0.5, "words", 1), ("fine", "words"), [0.5, "words"]]
)
def test_anything_else_is_refused_by_name(video: Path, opinion: object) -> None:
    wrong = CallableVerifier(lambda prompt, frames: opinion, "mine")  # type: ignore[arg-type, return-value]
    message = f"mine returned {opinion!r} for {video}; it must return a number in [0, 1]"
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong.judge([PROMPT], [video])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module.judge", "No module named 'no_such_module'"),
        ("tests.collect.verifiers.test_callable.no_such", "no_such"),
        ("tests.collect.verifiers.test_callable.PROMPT", "Unexpected import object"),
    ],
)
def test_a_function_that_is_not_there_is_refused_when_the_config_is_read(
    capsys: pytest.CaptureFixture[str], function: str, message: str
) -> None:
    parser = capture_parser(collect.__main__.main)
    verifier = {"class_path": "collect.verifiers.CallableVerifier", "init_args": {"function": function, "name": "x"}}
    generator = "tests.collect.fakes.FakeGenerator"
    with pytest.raises(SystemExit):
        parser.parse_args(
            [
                "run",
                "--prompts",
                "p",
                "--output",
                "o",
                "--generator",
                generator,
                f"--verifiers={json.dumps([verifier])}",
            ]
        )
    assert message in capsys.readouterr().err


def test_the_documented_example_runs_from_the_users_own_folder(tmp_path: Path, video: Path) -> None:
    python, yaml = re.findall(r"::\n\n((?:    .*\n|\n)+)", collect.verifiers.callable.__doc__ or "")
    page = (ROOT / "docs" / "verifiers.md").read_text()
    assert dedent(python).strip() in page
    assert dedent(yaml).strip() in page
    (tmp_path / "sharpness.py").write_text(dedent(python))
    (tmp_path / "camera.py").write_text(
        dedent("""
        import shutil
        from collections.abc import Sequence
        from collect.protocols import RenderRequest

        class Copies:
            fingerprint, batch_size = "copies", 2
            def generate(self, requests: Sequence[RenderRequest]) -> None:
                for request in requests:
                    request.path.parent.mkdir(exist_ok=True)
                    shutil.copy("v.mp4", request.path)
        """)
    )
    (tmp_path / "run.yaml").write_text(
        "prompts: prompts.txt\noutput: out\nrounds: 0\nnum_seeds: 1\ngenerator: camera.Copies\n" + dedent(yaml)
    )
    (tmp_path / "prompts.txt").write_text("a red box\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "collect", "run", "--config", "run.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [search], _ = read_trajectories(tmp_path / "out")
    assert search.raw.assessment.scores.keys() == {"sharpness/score"}
    assert search.raw.assessment.scores["sharpness/score"] < 0.5
    assert search.raw.assessment.critique == "The picture is blurred."


def test_a_function_is_known_by_its_path_and_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    identities = []
    for constant in ("0.5", "0.5", "0.6"):
        (tmp_path / "fickle.py").write_text(f"def judge(prompt, frames):\n    return {constant}\n")
        linecache.clearcache()
        monkeypatch.delitem(sys.modules, "fickle", raising=False)
        importlib.invalidate_caches()
        identities.append(identify({"function": importlib.import_module("fickle").judge})["function"])
    assert all(identity.startswith("fickle.judge ") for identity in identities)
    assert identities[0] == identities[1] != identities[2]
