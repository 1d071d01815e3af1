"""Text files as people and programs write them, read in one careful way: encodings, line ends, quotation marks."""

import ast
import codecs
import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

MAX_LINES = 100  # lines of one row of a CSV; more is a quotation mark that was never closed
MAX_FIELD = 2**31 - 1  # characters of one cell: the module's own limit is for strangers on the network
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LITERAL = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ARRAY = re.compile(rf"\[\s*(?:(?:{_LITERAL})\s*,?\s*)*\]", re.DOTALL)
# What a terminal does not show but obeys, and what has no meaning alone: controls, halves of surrogate pairs, and the
# marks that change the direction of text.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


@dataclass(frozen=True)
class Row:
    """One row of a CSV.

    Args:
        number: counted from 1, which is the header.
        line: the line of the file it begins on.
        cells: by column; nothing where the row is at fault.
        fault: why it cannot be told apart from the next row; ``None`` where it can.
    """

    number: int
    line: int
    cells: dict[str, str]
    fault: str | None = None


def decode(data: bytes, where: str | Path, replace: bool = False) -> str:
    """Decode the bytes of a text: UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Args:
        data: of the file.
        where: names it.
        replace: put a replacement character where it is neither, instead of refusing it.

    Raises:
        ValueError: naming line and byte, if it is neither.
    """
    encoding = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "utf-8")
    if replace:
        return data.decode(encoding, errors="replace")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}:{line} is not {encoding.removesuffix('-sig').upper()} (byte 0x{data[error.start]:02x}); save it "
            "as UTF-8, for instance with `iconv -f WINDOWS-1252 -t UTF-8`."
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{where}:{text.count(chr(10), 0, text.index(chr(0))) + 1} has a NUL character; is it another kind of "
            "file, or UTF-16 without a byte order mark? Save it as UTF-8."
        )
    return text


def read_text(path: Path, expected: str, replace: bool = False) -> str:
    """Read a text file, each line end as one line feed.

    Args:
        path: the file.
        expected: what should be there, and perhaps what makes it, for the error where it is missing.
        replace: see :func:`decode`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text; see :func:`decode`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; expected {expected}.")
    return decode(path.read_bytes(), path, replace).replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """The lines of a text. Only line feed and carriage return end one; other separators are characters of it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def shown(text: str) -> str:
    """A text as it can be sent to a terminal: what would be obeyed instead of shown is written as an escape."""
    return _UNSHOWN.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def quoted(value: object, most: int = 60) -> str:
    """A value from outside in an error message: short, and on one line."""
    text = repr(value[: most + 1] if isinstance(value, (str, bytes, list, tuple)) else value)
    return shown(text if len(text) <= most else f"{text[: most - 3]}...")


def listed(names: Sequence[str]) -> str:
    """Names from outside in an error message."""
    return ", ".join(quoted(name)[1:-1] for name in names[:10]) or "none"


def read_csv_rows(path: Path, expected: str, replace: bool = False) -> tuple[list[str], Iterator[Row]]:
    """Read a CSV with a header, row by row.

    A row whose quotation marks are not in order is at fault, and reading goes on with the line after its first: one
    stray quotation mark costs one row. Empty rows and headers that are repeated between rows are passed over.

    Args:
        path: the file.
        expected: what should be there, for the error where it is missing.
        replace: put a replacement character where the file is no UTF-8, instead of refusing it.

    Returns:
        The columns, and the rows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text.
    """
    csv.field_size_limit(MAX_FIELD)
    rows = _rows(read_text(path, expected, replace))
    _, _, header, _ = next(rows, (1, 1, [], None))
    columns = [name.strip() for name in header]
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path} has two columns of one name: {listed(columns)}; rename one.")
    return columns, (
        Row(number, line, {} if fault else dict(zip(columns, cells, strict=True)), fault)
        for number, line, cells, fault in rows
        if fault or cells not in ([], header)
    )


def read_rows(path: Path, expected: str) -> list[list[str]]:
    """Read the rows of a CSV that has no header, but for empty ones.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text, or a row of it is no row.
    """
    csv.field_size_limit(MAX_FIELD)
    try:
        return [row for row in csv.reader(f"{line}\n" for line in lines_of(read_text(path, expected))) if row]
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV ({error}); expected {expected}.") from error


def _rows(text: str) -> Iterator[tuple[int, int, list[str], str | None]]:
    """The rows of a CSV, their numbers and first lines, and what is wrong with one that is not whole."""
    width: int | None = None
    waiting = deque(f"{line}\n" for line in lines_of(text.removesuffix("\n")))
    used: list[str] = []

    def lines() -> Iterator[str]:
        while waiting and len(used) < MAX_LINES:
            used.append(waiting.popleft())
            yield used[-1]

    line = 1
    for number in count(1):
        used.clear()
        fault = None
        row: list[str] = []
        try:
            row = next(csv.reader(lines(), strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"its quotation marks are not in order ({error}); write each in a quoted cell twice"
        width = len(row) if width is None else width
        if fault is None and row and len(row) != width:
            fault = f"{len(row)} fields where the header has {width}; put a cell with commas in quotation marks"
        if fault is not None:
            waiting.extendleft(reversed(used[1:]))
        yield number, line, row, fault
        line += 1 if fault is not None else len(used)


def parse_list(text: str) -> object:
    """Read a list of texts as Python or NumPy writes it; NumPy, and so ``datasets`` and pandas, puts no commas.

    Raises:
        ValueError: if it is neither, or NumPy left out its middle.
    """
    text = text.strip()
    if _ARRAY.fullmatch(text):
        return [ast.literal_eval(literal) for literal in re.findall(_LITERAL, text, re.DOTALL)]
    try:
        value: Sequence[object] = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        cut = "; it was cut where it was written" if "..." in text else ""
        raise ValueError(f"not a Python list{cut}: {quoted(text)}") from error
    return value
