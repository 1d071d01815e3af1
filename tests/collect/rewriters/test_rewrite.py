"""The rewrite command: prompts from anywhere in, lines or differences out, nothing lost when a prompt fails."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from collect.__main__ import main
from collect.graph.modifiers import Modifiers
from collect.graph.relation_graph import RelationGraph
from collect.rewriters.rewrite import changes
from data_modules import templates

CONFIG = """
rewriter:
  class_path: collect.rewriters.RAPORewriter
  init_args:
    gate:
      class_path: collect.intent.IntentGate
    graph: {graph}
    retrieval: {{min_similarity: 0.1, num_modifiers: 2}}
    merger:
      class_path: collect.backends.TransformersLM
      init_args: {{pretrained: {model}, max_new_tokens: 48}}
    refactorer:
      class_path: collect.backends.TransformersLM
      init_args: {{pretrained: {model}, max_new_tokens: 48}}
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    parts = {"scene": ("snowy slope",), "subject": ("small jade sphere",), "atmosphere": ("bright sunlight",)}
    RelationGraph.build([Modifiers("1", **parts)]).save(folder)  # type: ignore[arg-type]
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object, stdin: str | None = None) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "argv", ["collect", "rewrite", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else io.StringIO(stdin))
    main()


@pytest.fixture
def config(tmp_path: Path, graph: Path) -> Path:
    path = tmp_path / "rewrite.yaml"
    path.write_text(CONFIG.format(graph=graph, model="models/toy/lm"))
    return path


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_results_go_to_standard_output_and_all_else_to_the_other(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["a blue box falls", 'a "jade" orb rolls, slowly. At night', "a \u732b and a \U0001f431 on a box"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    ways = (
        ((*("--config", config, "--format", "jsonl"), *prompts), None),
        (("--config", config, "--format", "jsonl", "--prompts", tmp_path / "prompts.txt"), None),
        (("--config", config, "--format", "jsonl"), "\n".join(prompts)),
    )
    outputs = []
    for arguments, stdin in ways:
        call(monkeypatch, *arguments, stdin=stdin)
        captured = capsys.readouterr()
        outputs.append(rows(captured.out))
        assert "3 prompts: " in captured.err
    assert outputs[0] == outputs[1] == outputs[2]
    assert [row["prompt"] for row in outputs[0]] == prompts
    for row in outputs[0]:
        assert row["modifiers"]
        assert len(row["merges"]) == len(row["modifiers"])
        failed = not any(candidate["gate"]["passed"] for candidate in row["candidates"])
        assert (row["rewrite"] == row["prompt"]) == (row["origin"] == "raw") == failed
    assert outputs[0][0]["origin"] == "refactored"
    assert {"blue", "box"} <= set(outputs[0][0]["kept"])


def test_a_difference_shows_what_was_added_kept_and_dropped(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "--config", config, "a blue box falls")
    shown = capsys.readouterr().out
    assert shown.startswith("a blue box falls\n  refactored: ")
    assert "{+" in shown
    for line in ("  added: ", "  kept: a blue box", "  dropped: "):
        assert line in shown


def test_a_dry_run_shows_retrieval_and_merges_and_loads_no_language_model(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "rewrite.yaml"
    config.write_text(CONFIG.format(graph=graph, model=tmp_path / "missing"))
    call(monkeypatch, "--config", config, "--dry-run", "a jade orb in the snow")
    shown = capsys.readouterr().out
    assert "small jade sphere" in shown
    assert "Prompt: a jade orb in the snow" in shown
    call(monkeypatch, "--config", config, "--dry-run", "--format", "jsonl", "a jade orb in the snow")
    [row] = rows(capsys.readouterr().out)
    assert row["requests"] == [
        templates.merge("a jade orb in the snow", modifier["phrase"]) for modifier in row["modifiers"]
    ]
    with pytest.raises(SystemExit):
        call(monkeypatch, "--config", config, "a jade orb in the snow")
    assert "no language model could be loaded from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ((), None, "there are no prompts; give some at the end of the command"),
        ((), "\n...\n", "standard input holds no usable prompt"),
        (("?!",), None, "the prompt '?!' has no letter or digit"),
        (("--prompts", "missing.txt"), None, "missing.txt does not exist"),
        (("--prompts", "missing.txt", "a cat"), None, "missing.txt"),
    ],
)
def test_unusable_prompts_are_named_before_any_model_loads(
    arguments: tuple[str, ...],
    stdin: str | None,
    message: str,
    tmp_path: Path,
    graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "rewrite.yaml"
    config.write_text(CONFIG.format(graph=graph, model=tmp_path / "nothing"))
    with pytest.raises(SystemExit):
        call(monkeypatch, "--config", config, *arguments, stdin=stdin)
    assert message in capsys.readouterr().err


def test_words_are_counted_and_marks_and_capitals_are_no_difference() -> None:
    assert changes("A red ball, a box", "a big red box. Red!") == {
        "added": ["big", "red"],
        "kept": ["a", "red", "box"],
        "dropped": ["ball", "a"],
    }
    assert changes("a box falls", "two falling boxes")["kept"] == ["box", "falls"]
    assert changes("\u732b runs", "\u732b runs") == {"added": [], "kept": ["\u732b", "runs"], "dropped": []}
