"""What the command line says of a config that was written for an earlier version."""

import importlib

import pytest

import collect.__main__


@pytest.mark.parametrize(("old", "now"), collect.__main__.MOVED.items())
def test_a_class_path_that_has_moved_is_refused_with_its_new_name(
    old: str, now: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room, _, name = now.rpartition(".")
    assert getattr(importlib.import_module(room), name).__name__ == name
    parameter = {"OpenAILM": "rewriter", "TransformersLM": "rewriter", "RayWorkers": "workers"}.get(name, "generator")
    config = f'{{"class_path": "{old}", "init_args": {{"batch_size": 2}}}}'
    monkeypatch.setattr("sys.argv", ["collect", "run", "--prompts=p.txt", "--output=o", f"--{parameter}={config}"])
    with pytest.raises(SystemExit) as ended:
        collect.__main__.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {old} is now {now}; say so in the config or on the command line.\n"


def test_an_old_class_path_deep_inside_a_config_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = '{"class_path": "collect.language_models.TransformersLM", "init_args": {"pretrained": "models/toy/lm"}}'
    rewriter = f'{{"class_path": "collect.rewriters.LMRewriter", "init_args": {{"language_model": {old}}}}}'
    monkeypatch.setattr("sys.argv", ["collect", "run", "--prompts=p.txt", "--output=o", f"--rewriter={rewriter}"])
    with pytest.raises(SystemExit):
        collect.__main__.main()
    assert "collect.language_models.TransformersLM is now collect.backends.TransformersLM;" in capsys.readouterr().err
