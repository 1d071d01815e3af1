"""The layout of a store: one SQLite database of prompts, candidates, videos and verdicts.

A database says that it is one by its ``application_id``, and is checked by SQLite before a row of it is used.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict

from data_modules.schema import STRICT, check, parse_json

APPLICATION_ID = 0x5452414A  # "TRAJ"
DATABASE = "trajectories.sqlite"
SCHEMA_VERSION = 2
BUSY_TIMEOUT = 60.0  # seconds to wait for another program that writes to the database
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE prompts (id TEXT PRIMARY KEY, position INTEGER NOT NULL, prompt TEXT NOT NULL, task TEXT);
CREATE TABLE rounds (number INTEGER PRIMARY KEY);
CREATE TABLE candidates (
    prompt_id TEXT NOT NULL REFERENCES prompts (id),
    number INTEGER NOT NULL,
    round INTEGER NOT NULL REFERENCES rounds (number),
    text TEXT NOT NULL,
    origin TEXT NOT NULL,
    scores TEXT,
    observations TEXT,
    critique TEXT,
    error TEXT,
    PRIMARY KEY (prompt_id, number),
    UNIQUE (prompt_id, text)
);
CREATE TABLE renders (
    id TEXT PRIMARY KEY,
    prompt TEXT NOT NULL,
    seed INTEGER NOT NULL,
    generator TEXT NOT NULL,
    video TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TABLE verdicts (
    prompt_id TEXT NOT NULL,
    render_id TEXT NOT NULL REFERENCES renders (id),
    verifier TEXT NOT NULL,
    scores TEXT NOT NULL,
    critique TEXT NOT NULL,
    error TEXT,
    PRIMARY KEY (prompt_id, render_id, verifier)
);
CREATE TABLE champions (
    prompt_id TEXT PRIMARY KEY REFERENCES prompts (id),
    text TEXT NOT NULL,
    average_rank REAL NOT NULL,
    num_candidates INTEGER NOT NULL
);
CREATE TABLE failures (id INTEGER PRIMARY KEY, backend TEXT NOT NULL, render_ids TEXT NOT NULL, error TEXT NOT NULL);
"""

# What a database says that it is, to SQLite and to `file`.
IDENTITY = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}")

# From each layout to the next.
MIGRATIONS = {
    1: """
ALTER TABLE candidates ADD COLUMN error TEXT;
ALTER TABLE verdicts ADD COLUMN error TEXT;
CREATE TABLE failures (id INTEGER PRIMARY KEY, backend TEXT NOT NULL, render_ids TEXT NOT NULL, error TEXT NOT NULL);
""",
}


@with_config(STRICT)
class Meta(TypedDict):
    """What a store says of itself."""

    schema_version: int
    settings: dict[str, Any]
    finished: bool


def read_meta(database: sqlite3.Connection, path: Path) -> Meta | None:
    """What a store says of itself, once it is found sound and all its tables are there; ``None`` if it is empty.

    Raises:
        ValueError: if it is another program's, damaged, or of a layout that is not known here.
    """
    restore = "restore it, or make it again with collect run."
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        there = _columns(database)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_ERROR":  # which is what a query that is right ends in nowhere else
            raise
        raise ValueError(f"{path} is no sound database ({error}); {restore}") from error
    if not there and not application:
        return None
    # Stores that were made before they had an id have 0.
    if application not in (0, APPLICATION_ID) or there.get("meta") != {"key", "value"}:
        raise ValueError(f"{path} is a database of another program; choose another folder.")
    for pragma in ("quick_check(1)", "foreign_key_check"):
        found = [row for row in database.execute(f"PRAGMA {pragma}") if row != ("ok",)]
        if found:
            raise ValueError(f"{path} is no sound database ({' '.join(map(str, found[0]))}); {restore}")
    rows = database.execute("SELECT key, value FROM meta").fetchall()
    said = {key: parse_json(str(value), object, f"{path}, {key} in the table meta,", restore) for key, value in rows}
    made = check(said, Meta, f"{path}, table meta,", restore)
    version = made["schema_version"]
    if not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(
            f"{path} has layout {version}, this version knows up to {SCHEMA_VERSION}; choose another folder, or use "
            "the version that made it."
        )
    for table, columns in _layout(version).items():
        if there.get(table) != columns:
            raise ValueError(f"{path} lacks the table {table} or columns of it; {restore}")
    return made


def _columns(database: sqlite3.Connection) -> dict[str, set[str]]:
    query = "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table'"
    found: dict[str, set[str]] = {}
    for table, column in database.execute(query):
        found.setdefault(table, set()).add(column)
    return found


@cache
def _layout(version: int) -> dict[str, set[str]]:
    """The columns of each table in a layout."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMA)
        layout = _columns(database)
    if version == 1:
        del layout["failures"]
        for table in ("candidates", "verdicts"):
            layout[table] -= {"error"}
    return layout


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[sqlite3.Connection, Meta]]:
    """Open a store that is only read, and see what it says of itself; nothing is written, not even beside it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged or none of ours; see :func:`read_meta`.
        OSError: if it can't be read.
    """
    path = folder / DATABASE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; collect run makes it.")
    journal = path.with_name(f"{path.name}-wal")
    # What nobody has open has no journal, or an empty one. Else SQLite must read it, too, and keep a lock meanwhile.
    how = "mode=ro" if journal.is_file() and journal.stat().st_size else "immutable=1"
    with clear_errors(path):
        database = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=BUSY_TIMEOUT)
        with contextlib.closing(database):
            made = read_meta(database, path)
            if made is None:
                raise ValueError(f"{path} is empty; make it with collect run.")
            yield database, made


@contextlib.contextmanager
def clear_errors(path: Path, busy_timeout: float = BUSY_TIMEOUT) -> Iterator[None]:
    """Say what SQLite says in words that help.

    Raises:
        OSError: if the database is locked, or can't be opened, read or written.
        ValueError: if it is damaged, or none.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise OSError(
                f"{path} has been locked by another program for {busy_timeout:g} seconds; end it and start again, what "
                "was made is kept."
            ) from error
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise OSError(
                f"cannot open {path} ({error}): it was not closed cleanly, which takes a writable folder to put right, "
                "or the folder can't be read or written; copy it to where it can, or mend its permissions."
            ) from error
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise OSError(
                f"cannot write {path} ({error}): is the disk full? Make room and start again, what was made is kept."
            ) from error
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or "decode to UTF-8" in str(error):
            raise ValueError(f"{path} is no sound database ({error}); restore it or choose another folder.") from error
        raise


def scores_of(text: str, where: str) -> dict[str, float]:
    """Read a column of scores.

    Raises:
        ValueError: if it holds anything else.
    """
    return parse_json(text, dict[str, float], where, "restore the store, or make it again with collect run.")


def dump_json(value: object) -> str:
    """Write a value so that equal values are equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
