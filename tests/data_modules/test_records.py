"""Records on disk."""

from pathlib import Path

import pytest

from data_modules.records import (
    Caption,
    Prompt,
    Record,
    Result,
    Rewrite,
    content_id,
    read_records,
    unique,
    write_records,
)

RECORDS = [
    Caption("c", "a blue box\nfalls \u2028 \u00e9\u4e2d", "corpus"),
    Prompt("p", "blue box", None),
    Prompt("q", "blue box", "gravity pulls it down"),
    Rewrite("r", [{"role": "user", "content": "1"}], [{"role": "assistant", "content": "2"}]),
    Result("p", "raw", "blue box", "blue box", 3, "videos/x.mp4", {"alignment": 0.5}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_come_back_as_they_were(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    write_records(path, [record, record])
    assert read_records(path, type(record)) == [record, record]
    assert [file.name for file in path.parent.iterdir()] == ["records.jsonl"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    write_records(path, [Prompt("p", "old")])

    def failing() -> object:
        yield Prompt("q", "one of several")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_records(path, failing())
    assert read_records(path, Prompt) == [Prompt("p", "old")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no records"),
        ("\n\n", "holds no records"),
        ('{"id": "a", "prompt": "b"}\n{"id": "a", "pro', "prompts.jsonl:2 is not JSON"),
        ('{"id": "a"}', "prompts.jsonl:1 is not a Prompt: .*prompt"),
        ('{"id": "a", "prompt": "b", "colour": "c"}', "its keys are id, prompt, task"),
        ("[1]", "its keys are id, prompt, task"),
    ],
)
def test_what_is_not_a_record_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_records(path, Prompt)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone.jsonl does not exist; expected one Prompt"):
        read_records(tmp_path / "gone.jsonl", Prompt)


def test_ids_are_stable_and_depend_on_where_texts_end() -> None:
    assert content_id("a blue box") == "ea6e56914ec888db"
    assert content_id("ab", "c") != content_id("a", "bc")


def test_of_equal_ids_the_first_stays() -> None:
    first, second, other = Prompt("a", "x"), Prompt("a", "y"), Prompt("b", "z")
    assert unique([first, other, second]) == [first, other]
