"""An export replaces only what an export wrote."""

import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from data_modules.exports import MARK, replaced


def export(folder: Path, text: str = "weights") -> None:
    with replaced(folder) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "model.safetensors").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_an_export_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        export(tmp_path / "hf", text)
        assert (tmp_path / "hf/inner/model.safetensors").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_empty_folder_and_a_link_to_an_export_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(tmp_path / "empty", "first")
    (tmp_path / "link").symlink_to("empty")
    export(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty/inner/model.safetensors").read_text() == "second"


@pytest.mark.parametrize("theirs", ["notes.txt", "inner/notes.txt", ".hidden"])
def test_files_of_others_are_never_deleted(tmp_path: Path, theirs: str) -> None:
    for folder in (tmp_path / "foreign", tmp_path / "hf"):
        if folder.name == "hf":
            export(folder)
        (folder / theirs).parent.mkdir(parents=True, exist_ok=True)
        (folder / theirs).write_text("mine")
        before = contents(folder)
        with pytest.raises(ValueError, match=r"choose a new one|choose a new folder"):
            export(folder)
        assert contents(folder) == before


def test_marks_that_are_none_protect_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    for mark in ("", "[]", '{"files": 3}', "[" * 100_000, "\udc80", "{}"):
        (folder / MARK).write_text(mark, errors="surrogateescape")
        (folder / "mine.txt").write_text("mine")
        with pytest.raises(ValueError, match="not written by an export"):
            export(folder)


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file; export to a new folder"):
        export(tmp_path / "file")


def test_folders_beside_it_that_only_have_the_names_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".hf.partial").mkdir()
    (tmp_path / ".hf.partial/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"\.hf\.partial is not empty and was not written by an export"):
        export(tmp_path / "hf")
    assert (tmp_path / ".hf.partial/mine.txt").read_text() == "mine"


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    export(tmp_path / "hf", "first")

    def fail() -> None:
        with replaced(tmp_path / "hf") as partial:
            (partial / "half").write_text("half")
            raise SafetensorError("No space left on device")

    with pytest.raises(OSError, match="make room and export again"):
        fail()
    assert (tmp_path / "hf/inner/model.safetensors").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_what_a_killed_export_left_is_in_nobodys_way(tmp_path: Path) -> None:
    with replaced(tmp_path / "hf") as partial:
        (partial / "half").write_text("half")
        shutil.copytree(partial, tmp_path / "kept")  # as SIGKILL leaves it
    (tmp_path / "kept").rename(tmp_path / ".hf.partial")
    export(tmp_path / "hf", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
