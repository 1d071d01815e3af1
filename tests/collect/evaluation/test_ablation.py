"""What each part of stage 1 adds: the arithmetic, and the command."""

import json
import sys
from pathlib import Path

import pytest

import collect.__main__
from collect.evaluation.ablation import PAPER, compare
from data_modules.records import Result


def result(method: str, prompt_id: str, seed: int, score: float) -> Result:
    return Result(prompt_id, method, "a ball", "a ball", seed, "x.mp4", {"alignment": score})


def test_each_method_is_compared_with_the_raw_prompt_and_the_one_before() -> None:
    scores = {
        "raw": {("1", 0): 0.0, ("1", 1): 0.5, ("2", 0): 0.5},
        "graph": {("2", 0): 0.5, ("1", 0): 0.5, ("1", 1): 0.5},
        "choice": {("1", 0): 1.0, ("1", 1): 1.0, ("2", 0): 1.0},
    }
    rows = compare([result(m, *key, score) for m, own in scores.items() for key, score in own.items()], "alignment")
    raw, graph, choice = rows
    assert [row.paper for row in rows] == [80.89, 80.37, 82.38]
    assert raw.score == pytest.approx(1 / 3)
    assert (raw.gain, raw.step) == (0.0, None)
    assert graph.gain == graph.step == pytest.approx(0.5 / 3)
    assert choice.gain == pytest.approx(2 / 3)
    assert choice.step == pytest.approx(0.5)
    assert choice.step_interval == pytest.approx((0.5, 0.5))  # the same for every prompt
    # Prompt 1 gains 0.25 a video, prompt 2 nothing; a resample has the one, the other or both.
    assert graph.gain_interval == pytest.approx((0.0, 0.25))


def test_the_command_prints_the_paper_beside_the_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a bee\na fox\na tree\n")
    arguments = [
        f"--prompts={tmp_path / 'prompts.txt'}",
        f"--output={tmp_path / 'out'}",
        "--generator=tests.collect.fakes.FakeGenerator",
        "--judge=tests.collect.fakes.FakeVerifier",
        "--gate=collect.intent.IntentGate",
        '--methods={"raw": null, "refactor": {"class_path": "tests.collect.fakes.FakeRewriter"}}',
        "--num_seeds=2",
    ]
    monkeypatch.setattr(sys, "argv", ["collect", "ablation", *arguments])
    collect.__main__.main()
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [row["method"] for row in rows] == ["raw", "refactor"]
    # " here" has two e, of twelve that score 1.
    assert rows[1]["gain"] == rows[1]["step"] == pytest.approx(2 / 12)
    printed = capsys.readouterr().out
    assert f"{PAPER['raw']:.2f}" in printed
    assert f"{PAPER['refactor']:.2f}" in printed
