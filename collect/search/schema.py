"""The layout of a store: one SQLite database of prompts, candidates, videos and verdicts."""

import json
import sqlite3
from typing import Any

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

# From each layout to the next.
MIGRATIONS = {
    1: """
ALTER TABLE candidates ADD COLUMN error TEXT;
ALTER TABLE verdicts ADD COLUMN error TEXT;
CREATE TABLE failures (id INTEGER PRIMARY KEY, backend TEXT NOT NULL, render_ids TEXT NOT NULL, error TEXT NOT NULL);
""",
}


def read_meta(database: sqlite3.Connection) -> dict[str, Any] | None:
    """What a store says of itself; ``None`` if it is empty."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return None
    return {key: json.loads(value) for key, value in database.execute("SELECT key, value FROM meta")}


def dump_json(value: object) -> str:
    """Write a value so that equal values are equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
