"""The method's own example files go through the commands, with real classes at their smallest."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import collect.__main__
from collect.backends.video import read_video
from collect.graph.modifiers import normalise
from collect.graph.relation_graph import RelationGraph
from collect.prompts import read_prompts
from collect.search.trajectories import read_trajectories

Command = Callable[..., None]

ROOT = Path(__file__).parents[2]
RAPO = ROOT.parent / "shared" / "data" / "rapo"
TOY_LM = ROOT / "models" / "toy" / "lm"

pytestmark = pytest.mark.skipif(not RAPO.is_dir(), reason=f"{RAPO} (the method's example files) is not here")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run ``python -m collect``, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["collect", *map(str, arguments)])
        collect.__main__.main()

    return call


def test_the_example_captions_become_a_graph_that_prompts_find_modifiers_in(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command(
        *("graph", "--captions", RAPO / "graph_test1.csv", "--output", "graph", "--prompts", RAPO / "test_prompts.txt"),
        *("--retrieval.min_similarity", 0.3),
    )
    shown = capsys.readouterr().out
    assert "15 x scene, 0 x subject, 21 x action, 9 x atmosphere; 32 edges, 0 captions left out" in shown
    lines = [json.loads(line) for line in (tmp_path / "graph" / "retrieved.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == (RAPO / "test_prompts.txt").read_text().splitlines()
    [bicycle] = [line for line in lines if line["prompt"].startswith("a bicycle")]
    assert bicycle["modifiers"][0]["phrase"] == "riding a bicycle"
    assert "riding a bicycle" in shown
    for line in lines:
        assert all(0.3 <= modifier["similarity"] <= 0.9 for modifier in line["modifiers"])


def test_the_second_example_extends_the_first(command: Command, tmp_path: Path) -> None:
    command("graph", "--captions", RAPO / "graph_test1.csv", "--output", "first")
    command("graph", "--captions", RAPO / "graph_test2.csv", "--base", "first", "--output", "extended")
    both = tmp_path / "both.csv"
    rows = []
    for name in ("graph_test1.csv", "graph_test2.csv"):
        with (RAPO / name).open(encoding="utf-8", newline="") as file:
            rows += list(csv.reader(file))
    with both.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    command("graph", "--captions", both, "--output", "both")
    extended, together = (RelationGraph.open(tmp_path / name) for name in ("extended", "both"))
    assert extended.nodes.equals(together.nodes)
    assert extended.edges.equals(together.edges)
    np.testing.assert_allclose(extended.embeddings, together.embeddings, atol=2e-3)
    assert all(normalise(phrase) == phrase for phrase in extended.nodes["phrase"].to_pylist())


def test_the_physics_examples_go_through_a_round(command: Command, tmp_path: Path, wan: Path) -> None:
    config = {
        "prompts": str(RAPO / "physics_examples.csv"),
        "output": "collected",
        "generator": {
            "class_path": "collect.backends.DiffusersGenerator",
            "init_args": {
                "pretrained": str(wan),
                "num_inference_steps": 1,
                "guidance_scale": 5.0,
                "num_frames": 5,
                "height": 32,
                "width": 32,
                "fps": 16,
                "batch_size": 3,
            },
        },
        "verifiers": [{"class_path": "collect.verifiers.FlowVerifier"}],
        "proposer": {
            "class_path": "collect.rewriters.CritiqueRewriter",
            "init_args": {
                "language_model": {
                    "class_path": "collect.backends.TransformersLM",
                    "init_args": {"pretrained": str(TOY_LM), "max_new_tokens": 16, "temperature": 1.0},
                },
                "gate": {"class_path": "collect.intent.IntentGate"},
                "num_proposals": 1,
                "num_history": 2,
            },
        },
        "rounds": 1,
        "num_seeds": 1,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command("run", "--config", "config.yaml")
    asked = read_prompts(RAPO / "physics_examples.csv")
    assert len(asked) == 9
    assert all(prompt.task is not None and prompt.task.startswith("Due to ") for prompt in asked)
    searches, _ = read_trajectories(tmp_path / "collected")
    assert [search.prompt for search in searches] == asked
    for search in searches:
        assert search.raw.assessment.observations.keys() == {"flow/continuity", "flow/movement", "flow/smoothness"}
        assert search.raw.assessment.critique
    videos = sorted((tmp_path / "collected" / "videos").glob("*.mp4"))
    assert len(videos) >= 9
    assert read_video(videos[0]).shape == (5, 32, 32, 3)
