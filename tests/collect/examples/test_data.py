"""What a user brings: captions and prompts, in the files that the stages read."""

from pathlib import Path

import pytest

from collect.examples.data import data
from data_modules.records import Caption, Prompt, content_id, read_records, write_records

PROMPTS = [f"a dog number {number} runs" for number in range(40)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    captions, prompts = tmp_path / "captions.txt", tmp_path / "prompts.txt"
    captions.write_text("A dog runs over a field.\n\nA  cat sleeps.\nA dog runs over a field.\n")
    prompts.write_text("\n".join(PROMPTS))
    return captions, prompts


def splits(folder: Path) -> dict[str, list[str]]:
    names = ("train", "val", "test")
    return {name: [p.prompt for p in read_records(folder / f"prompts/{name}.jsonl", Prompt)] for name in names}


def test_every_prompt_is_in_one_split_and_more_prompts_move_few(files: tuple[Path, Path], tmp_path: Path) -> None:
    data(*files, tmp_path / "out")
    assert [c.caption for c in read_records(tmp_path / "out/captions.jsonl", Caption)] == [
        "A dog runs over a field.",
        "A cat sleeps.",
    ]
    found = splits(tmp_path / "out")
    assert {name: len(texts) for name, texts in found.items()} == {"train": 32, "val": 4, "test": 4}
    assert sorted(text for texts in found.values() for text in texts) == sorted(PROMPTS)
    files[1].write_text("\n".join([*reversed(PROMPTS), "a cat sleeps"]))
    data(*files, tmp_path / "more")
    assert len(set(found["train"]) - set(splits(tmp_path / "more")["train"])) <= 2


def test_caption_records_keep_their_source(files: tuple[Path, Path], tmp_path: Path) -> None:
    write_records(tmp_path / "c.jsonl", [Caption(content_id("a"), "A cat.", "panda70m")])
    data(tmp_path / "c.jsonl", files[1], tmp_path / "out")
    assert read_records(tmp_path / "out/captions.jsonl", Caption)[0].source == "panda70m"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": "nowhere.txt"}, "nowhere.txt does not exist; expected captions as .jsonl, .txt or .csv"),
        ({"captions": "captions.csv"}, "captions.csv has columns a; one must be caption or captions or text"),
        ({"captions": "empty.txt"}, "empty.txt holds no captions"),
        ({"prompts": "few.txt"}, "2 prompts are too few for three splits; give at least 10"),
        ({"val_share": 0.6, "test_share": 0.5}, "above 0 and below 1 together, got 0.6, 0.5"),
    ],
)
def test_what_cannot_be_used_is_named(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"captions.csv": "a\n", "empty.txt": "\n", "few.txt": "a dog\na cat\n"}.items():
        Path(name).write_text(text)
    arguments = {"captions": files[0], "prompts": files[1]} | changes
    paths = {key: Path(value) if isinstance(value, str) else value for key, value in arguments.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace(".", r"\.")):
        data(**paths, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
