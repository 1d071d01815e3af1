"""A config names files for classes, changes single arguments of them, and is told which file is wrong."""

from pathlib import Path
from typing import Any

import pytest

import collect.__main__
from collect.backends.identity import identify
from tests.command_lines import resolved

LM = "collect.backends.TransformersLM"
FILES = {
    "lm.yaml": f"class_path: {LM}\ninit_args: {{pretrained: models/toy/lm, max_new_tokens: 64}}",
    "gate.yaml": "class_path: collect.intent.IntentGate",
    "rewriter.yaml": "class_path: collect.rewriters.LMRewriter\ninit_args: {language_model: lm.yaml, gate: gate.yaml}",
    "generator.yaml": "class_path: tests.collect.fakes.FakeGenerator",
    "verifiers.yaml": "- class_path: tests.collect.fakes.FakeVerifier\n- flow.yaml",
    "flow.yaml": "class_path: collect.verifiers.FlowVerifier\ninit_args: {language_model: lm.yaml}",
}
RUN: dict[str, Any] = {"prompts": "p.txt", "output": "o", "generator": "generator.yaml", "verifiers": "verifiers.yaml"}
WRITTEN_OUT = {"class_path": LM, "init_args": {"pretrained": "models/toy/lm", "max_new_tokens": 64}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that a run's config may name."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


def run(folder: Path, *arguments: str, **config: Any) -> dict[str, Any]:
    """What a run's config is resolved to."""
    (folder / "run.yaml").write_text(repr(RUN | config))
    return resolved(["collect", "run", f"--config={folder / 'run.yaml'}", *arguments])


def of_run(folder: Path, key: str, value: Any) -> dict[str, Any]:
    """What one argument of a run is resolved to."""
    found: dict[str, Any] = run(folder, **{key: value})[key]
    return found


def test_a_file_stands_for_a_class_at_any_depth(folder: Path) -> None:
    found = run(folder, rewriter="rewriter.yaml", alternatives={"other": "rewriter.yaml"})
    assert found["generator"]["class_path"] == "tests.collect.fakes.FakeGenerator"
    assert found["verifiers"][1]["init_args"]["language_model"]["init_args"]["pretrained"] == "models/toy/lm"
    assert found["rewriter"]["init_args"]["gate"]["class_path"] == "collect.intent.IntentGate"
    assert found["alternatives"]["other"] == found["rewriter"]


def test_arguments_beside_a_file_change_what_it_says(folder: Path) -> None:
    plain = of_run(folder, "rewriter", "rewriter.yaml")
    given = {"language_model": {"init_args": {"temperature": 1.0}}, "seed": 2}
    changed = of_run(folder, "rewriter", {"class_path": "rewriter.yaml", "init_args": given})
    assert changed["init_args"].pop("seed") == 2
    assert changed["init_args"]["language_model"]["init_args"].pop("temperature") == 1.0
    plain["init_args"].pop("seed")
    plain["init_args"]["language_model"]["init_args"].pop("temperature")
    assert changed == plain


def test_a_class_given_beside_a_file_replaces_the_files(folder: Path) -> None:
    other = {"class_path": "collect.backends.OpenAILM", "init_args": {"base_url": "http://x", "model": "m"}}
    given = {"class_path": "rewriter.yaml", "init_args": {"language_model": other}}
    language_model = of_run(folder, "rewriter", given)["init_args"]["language_model"]
    assert language_model["class_path"] == "collect.backends.OpenAILM"
    assert "pretrained" not in language_model["init_args"]


def test_files_name_files_beside_themselves(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/rewriter.yaml").write_text("class_path: ../rewriter.yaml\ninit_args: {seed: 3}\n")
    found = of_run(folder, "rewriter", "mine/rewriter.yaml")
    assert found["init_args"]["seed"] == 3
    assert found["init_args"]["language_model"]["init_args"]["pretrained"] == "models/toy/lm"


def test_the_command_line_names_files_too_and_changes_what_they_say(folder: Path) -> None:
    found = run(folder, f"--rewriter={folder / 'rewriter.yaml'}", "--rewriter.language_model.temperature=0.5")
    assert found["rewriter"]["init_args"]["language_model"]["init_args"]["temperature"] == 0.5


def test_a_backend_is_the_same_whether_written_out_or_named(folder: Path) -> None:
    gate = {"class_path": "collect.intent.IntentGate"}
    given = {"language_model": WRITTEN_OUT, "gate": gate}
    rewriter = {"class_path": "collect.rewriters.LMRewriter", "init_args": given}
    flow = {"class_path": "collect.verifiers.FlowVerifier", "init_args": {"language_model": WRITTEN_OUT}}
    verifiers = [{"class_path": "tests.collect.fakes.FakeVerifier"}, flow]
    named = run(folder, rewriter="rewriter.yaml", alternatives={"other": "rewriter.yaml"})
    written = run(
        folder,
        generator={"class_path": "tests.collect.fakes.FakeGenerator"},
        verifiers=verifiers,
        rewriter=rewriter,
        alternatives={"other": rewriter},
    )
    for key in ("generator", "verifiers", "rewriter", "alternatives"):
        assert identify(named[key]) == identify(written[key])


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        ({}, {"rewriter": "absent.yaml"}, ["rewriter names {}/absent.yaml, which does not exist"]),
        ({}, {"alternatives": {"a": "absent.yaml"}}, ["alternatives.a names {}/absent.yaml, which does not exist"]),
        ({}, {"verifiers": ["absent.yaml"]}, ["verifiers[0] names {}/absent.yaml, which does not exist"]),
        (
            {},
            {"rewriter": {"class_path": "absent.yaml", "init_args": {"seed": 1}}},
            ["rewriter names {}/absent.yaml, which does not exist"],
        ),
        (
            {"lm.yaml": f"class_path: {LM}\ninit_args: {{pretraned: models/toy/lm}}"},
            {"rewriter": "rewriter.yaml"},
            ["pretraned", "is {}/lm.yaml"],
        ),
        (
            {"lm.yaml": "pretrained: models/toy/lm"},
            {"rewriter": {"class_path": "lm.yaml"}},
            ["{}/lm.yaml, which rewriter names as its class_path, says no class_path itself"],
        ),
        (
            {"lm.yaml": "a: [b"},
            {"rewriter": {"class_path": "lm.yaml"}},
            ["{}/lm.yaml, which rewriter names, is no YAML"],
        ),
        (
            {"lm.yaml": "class_path: lm.yaml"},
            {"rewriter": {"class_path": "lm.yaml"}},
            ["{}/lm.yaml names itself"],
        ),
    ],
)
def test_a_missing_or_wrong_file_is_named_with_its_key(
    folder: Path,
    files: dict[str, str],
    config: dict[str, Any],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
    (folder / "run.yaml").write_text(repr(RUN | config))
    monkeypatch.setattr("sys.argv", ["collect", "run", "--config", str(folder / "run.yaml")])
    with pytest.raises(SystemExit) as ended:
        collect.__main__.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    for part in said:
        assert part.format(folder) in error
