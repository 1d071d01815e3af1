"""Text files as others write them."""

import csv
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_modules.records import Prompt, Rewrite, read_records, write_records
from data_modules.text import decode, lines_of, parse_list, quoted, read_csv_rows, read_text, shown

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def rows(path: Path) -> list[tuple[int, dict[str, str], bool]]:
    return [(row.line, row.cells, row.fault is not None) for row in read_csv_rows(path, "rows")[1]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_and_line_end_is_read_alike(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(end.join(["a caf\u00e9", "\u4e2d\u2028one line", "b\x0b\x0c\x1c\x85c"]).encode(encoding))
    assert lines_of(read_text(path, "text")) == ["a caf\u00e9", "\u4e2d\u2028one line", "b\x0b\x0c\x1c\x85c"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("caption\na caf\u00e9\n".encode("cp1252"), r"file.txt:2 is not UTF-8 \(byte 0xe9\).*iconv"),
        ("\nab".encode("utf-16-le"), "file.txt:2 has a NUL character.* UTF-16 without"),
        ("ab".encode("utf-16")[:-1], "file.txt:1 is not UTF-16"),
    ],
)
def test_what_is_no_text_is_named_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "file.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "file.txt", "text")


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is a folder; expected prompts"):
        read_text(tmp_path, "prompts")
    with pytest.raises(FileNotFoundError, match="none does not exist; expected prompts"):
        read_text(tmp_path / "none", "prompts")


@pytest.mark.parametrize(
    "stray", ['"a dog', 'a "dog" runs, "fast', '"a dog" runs', '"a, b" c', "too,many", '"\n"', '5" screen, 6']
)
def test_a_stray_quotation_mark_costs_one_row(tmp_path: Path, stray: str) -> None:
    before, after = [f"before {number}" for number in range(3)], [f"after {number}" for number in range(200)]
    (tmp_path / "file.csv").write_text("\n".join(["prompt", *before, *stray.split("\n")[:1], *after]) + "\n")
    read = [cells["prompt"] for _, cells, fault in rows(tmp_path / "file.csv") if not fault]
    assert [text for text in read if text != stray] == before + after


def test_cells_may_be_long_and_of_several_lines(tmp_path: Path) -> None:
    cells = [["a" * 300_000, 'say "hi"'], ["two\nlines", "a, b"], ["\u2028", " blanks "]]
    with (tmp_path / "file.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *cells, ["x", "y"], []])
    assert [list(values.values()) for _, values, _ in rows(tmp_path / "file.csv")] == cells


@QUICK
@given(st.lists(st.lists(TEXT.map(lambda text: text.replace("\r", "")), min_size=2, max_size=2), max_size=8))
def test_what_python_writes_as_csv_is_read_back(tmp_path: Path, cells: list[list[str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["x", "y"], *cells])
    (tmp_path / "file.csv").write_bytes(file.getvalue().encode())
    found = [list(values.values()) for _, values, _ in rows(tmp_path / "file.csv")]
    # Rows of more lines than a row may have are told from strays nowhere.
    expected = [row for row in cells if row != ["x", "y"]]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['sunny beach' 'city street']", ["sunny beach", "city street"]),
        ("['sunny beach'\n 'city street' \"a dog's house\"]", ["sunny beach", "city street", "a dog's house"]),
        ("['a', 'b']", ["a", "b"]),
        (" [] ", []),
        ("['a',\n 'it\\'s']", ["a", "it's"]),
    ],
)
def test_lists_are_read_as_python_and_numpy_write_them(text: str, expected: list[str]) -> None:
    assert parse_list(text) == expected


@pytest.mark.parametrize("text", ["", "x", "['a' ... 'b']", "['a'", "[" * 10_000, "__import__('os')"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a Python list"):
        parse_list(text)


@given(st.text())
def test_nothing_that_is_shown_is_obeyed(text: str) -> None:
    for sent in (shown(text), quoted(text)):
        assert all(unicodedata.category(letter) not in ("Cc", "Cs") or letter in "\t\n" for letter in sent)
        sent.encode()
    assert shown(shown(text)) == shown(text)
    assert "\n" not in quoted(text)


@given(st.binary())
def test_bytes_are_text_or_refused_in_our_words(data: bytes) -> None:
    try:
        decode(data, "file").encode("utf-8")
    except ValueError as error:
        refused: ValueError | None = error
    else:
        refused = None
    assert refused is None or (type(refused) is ValueError and str(refused).startswith("file:"))


@QUICK
@given(TEXT.filter(str.strip))
def test_records_keep_any_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.jsonl"
    turns = [{"role": "user", "content": text}]
    written = [Rewrite("a", turns, turns), Rewrite(text, turns, [])]
    write_records(path, written)
    assert read_records(path, Rewrite) == written
    # Whatever other programs take for the end of a line, each line is a whole record to them.
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    write_records(path, [Prompt("a", text, text)])
    assert read_records(path, Prompt) == [Prompt("a", text, text)]
