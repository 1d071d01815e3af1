"""Only what a parameter's type, or its name, says is a path is looked for on disk."""

from pathlib import Path

import pytest

from collect.backends.identity import identify


class Backend:
    """Takes texts and paths of every kind."""

    def __init__(self, pretrained: str, negative_prompt: str = "", graph: Path | None = None) -> None: ...


class Further(Backend):
    """Hands on what it does not know."""

    def __init__(self, folders: list[Path] | None = None, **kwargs: object) -> None: ...


def told(kind: type, **arguments: object) -> dict[str, object]:
    return identify({"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments})


@pytest.mark.parametrize("text", ["x" * 256, "x" * 5000, "a/" * 3000, "色调艳丽" * 100, "models", "", "nul\0inside"])
def test_a_text_is_never_taken_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/config.json").write_text("{}")
    for kind in (Backend, Further):
        assert told(kind, pretrained="some/id", negative_prompt=text)["negative_prompt"] == text


@pytest.mark.parametrize(
    ("kind", "name"), [(Backend, "pretrained"), (Backend, "graph"), (Further, "pretrained"), (Further, "graph")]
)
def test_a_folder_is_told_by_its_content(tmp_path: Path, kind: type, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = told(kind, **{name: str(tmp_path)})
    (tmp_path / "config.json").write_text("{ }")
    assert told(kind, **{name: str(tmp_path)})[name] != first[name]
    assert str(first[name]).startswith(f"{tmp_path.name} ")


def test_folders_in_lists_are_told_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert told(Further, folders=[str(tmp_path)])["folders"] != [str(tmp_path)]
