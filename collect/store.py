"""Trajectories in SQLite, videos in files beside it. One writer; what is committed survives a killed run.

A video's file is complete before its row is written, so a row vouches for a file of so many bytes.
"""

import fcntl
import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from collect.protocols import RenderRequest, Verdict
from collect.sspo import Assessment, Candidate, Draft, Trajectory, average_ranks
from data_modules.records import Prompt, content_id

DATABASE = "trajectories.sqlite"
SCHEMA_VERSION = 1

_SCHEMA = """
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
    PRIMARY KEY (prompt_id, render_id, verifier)
);
CREATE TABLE champions (
    prompt_id TEXT PRIMARY KEY REFERENCES prompts (id),
    text TEXT NOT NULL,
    average_rank REAL NOT NULL,
    num_candidates INTEGER NOT NULL
);
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Take:
    """One video to be judged: a text, rendered with a seed, as an answer to a raw prompt."""

    prompt: Prompt
    text: str
    seed: int


class Store:
    """The one writer of a folder of trajectories; a context manager.

    Args:
        folder: made where missing; what an earlier run with the same settings left there is found again.
        settings: whatever decides what the trajectories will be, as JSON.

    Raises:
        ValueError: if another run has the folder open, or it was made with other settings or an older layout.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ValueError(f"another run is writing to {folder}; wait for it or choose another folder.") from error
        try:
            self._database = sqlite3.connect(folder / DATABASE)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._check(settings)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the next run in."""
        self._database.close()
        self._lock.close()

    def _check(self, settings: dict[str, Any]) -> None:
        made = _meta(self._database)
        if made is None:
            with self._database:
                # One transaction: a run killed here leaves an empty file, which the next one takes for new.
                self._database.execute("BEGIN")
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                values = {"schema_version": SCHEMA_VERSION, "settings": settings, "finished": False}
                self._database.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [(key, _dump(value)) for key, value in values.items()]
                )
            return
        if made["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{self.folder} has layout {made['schema_version']}, this version reads {SCHEMA_VERSION}; "
                "choose another folder."
            )
        before, now = made["settings"], json.loads(_dump(settings))
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            differences = "; ".join(f"{key} was {before.get(key)!r} and is now {now.get(key)!r}" for key in changed)
            raise ValueError(
                f"{self.folder} was made with other settings: {differences}. "
                "Choose another folder, delete this one, or use its settings."
            )

    # The search's memory.

    def enter(self, prompts: Sequence[Prompt]) -> None:
        """Note the prompts to search for."""
        rows = [(p.id, position, p.prompt, p.task) for position, p in enumerate(prompts)]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO prompts VALUES (?, ?, ?, ?)", rows)

    def recall(self, number: int) -> dict[str, list[Draft]] | None:
        """Read the drafts of a round by prompt id; ``None`` if the round has none yet."""
        if not self._database.execute("SELECT 1 FROM rounds WHERE number = ?", (number,)).fetchone():
            return None
        drafts: dict[str, list[Draft]] = {}
        query = "SELECT prompt_id, text, origin FROM candidates WHERE round = ? ORDER BY prompt_id, number"
        for prompt_id, text, origin in self._database.execute(query, (number,)):
            drafts.setdefault(prompt_id, []).append(Draft(text, origin))
        return drafts

    def remember(self, number: int, drafts: dict[str, list[Draft]]) -> None:
        """Write all drafts of a round at once."""
        with self._database:
            self._database.execute("INSERT INTO rounds VALUES (?)", (number,))
            for prompt_id, texts in drafts.items():
                query = "SELECT COUNT(*) FROM candidates WHERE prompt_id = ?"
                (before,) = self._database.execute(query, (prompt_id,)).fetchone()
                self._database.executemany(
                    "INSERT INTO candidates (prompt_id, number, round, text, origin) VALUES (?, ?, ?, ?, ?)",
                    [(prompt_id, before + i, number, draft.text, draft.origin) for i, draft in enumerate(texts)],
                )

    def record(self, trajectories: Sequence[Trajectory]) -> None:
        """Write assessments and champions of these searches."""
        with self._database:
            for search in trajectories:
                self._database.executemany(
                    "UPDATE candidates SET scores = ?, observations = ?, critique = ? WHERE prompt_id = ? AND text = ?",
                    [
                        (
                            _dump(candidate.assessment.scores),
                            _dump(candidate.assessment.observations),
                            candidate.assessment.critique,
                            search.prompt.id,
                            candidate.text,
                        )
                        for candidate in search.candidates
                    ],
                )
                rank = float(average_ranks(search.candidates).min())
                self._database.execute(
                    "INSERT OR REPLACE INTO champions VALUES (?, ?, ?, ?)",
                    (search.prompt.id, search.champion.text, rank, len(search.candidates)),
                )

    def finish(self) -> None:
        """Note that every search is over."""
        with self._database:
            self._database.execute("UPDATE meta SET value = ? WHERE key = 'finished'", (_dump(True),))

    # Videos and verdicts.

    def request(self, take: Take, generator: str) -> RenderRequest:
        """Say where the video of a take belongs; its name is its content: generator, text and seed."""
        name = content_id(generator, take.text, str(take.seed))
        return RenderRequest(take.text, take.seed, self.folder / "videos" / f"{name}.mp4")

    def has_render(self, request: RenderRequest) -> bool:
        """Whether a video is there, whole; a deleted or truncated one is not."""
        query = "SELECT bytes FROM renders WHERE id = ?"
        row = self._database.execute(query, (request.path.stem,)).fetchone()
        if row is None:
            return False
        size = request.path.stat().st_size if request.path.is_file() else 0
        if size != row[0]:
            logger.warning("%s has %d bytes of %d; rendering it again.", request.path, size, row[0])
        return bool(size == row[0])

    def add_renders(self, requests: Sequence[RenderRequest], generator: str) -> None:
        """Note videos whose files are complete."""
        rows = [
            (
                request.path.stem,
                request.prompt,
                request.seed,
                generator,
                str(request.path.relative_to(self.folder)),
                request.path.stat().st_size,
            )
            for request in requests
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO renders VALUES (?, ?, ?, ?, ?, ?)", rows)

    def verdict(self, take: Take, request: RenderRequest, verifier: str) -> Verdict | None:
        """Read a verifier's opinion of a video as an answer to its raw prompt."""
        query = "SELECT scores, critique FROM verdicts WHERE prompt_id = ? AND render_id = ? AND verifier = ?"
        row = self._database.execute(query, (take.prompt.id, request.path.stem, verifier)).fetchone()
        return Verdict(json.loads(row[0]), row[1]) if row else None

    def add_verdicts(
        self, takes: Sequence[Take], requests: Sequence[RenderRequest], verifier: str, verdicts: Sequence[Verdict]
    ) -> None:
        """Note a verifier's opinions."""
        rows = [
            (take.prompt.id, request.path.stem, verifier, _dump(verdict.scores), verdict.critique)
            for take, request, verdict in zip(takes, requests, verdicts, strict=True)
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)", rows)

    def num_renders(self) -> int:
        """Count the videos made so far."""
        return int(self._database.execute("SELECT COUNT(*) FROM renders").fetchone()[0])


def read_trajectories(folder: Path) -> tuple[list[Trajectory], dict[str, Any]]:
    """Read every judged candidate of a store, and the settings it was made with.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if it has another layout, or its run did not end.
    """
    if not (folder / DATABASE).is_file():
        raise FileNotFoundError(f"{folder / DATABASE} does not exist; collect run makes it.")
    database = sqlite3.connect(folder / DATABASE)
    try:
        made = _meta(database)
        if made is None or made["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"{folder / DATABASE} has no layout {SCHEMA_VERSION}; make it again with collect run.")
        if not made["finished"]:
            raise ValueError(f"{folder} is not finished; start its collect run again, it goes on where it stopped.")
        trajectories = {
            row[0]: Trajectory(Prompt(*row))
            for row in database.execute("SELECT id, prompt, task FROM prompts ORDER BY position")
        }
        query = (
            "SELECT prompt_id, text, origin, round, scores, observations, critique FROM candidates "
            "WHERE scores IS NOT NULL ORDER BY prompt_id, number"
        )
        for prompt_id, text, origin, number, scores, observations, critique in database.execute(query):
            assessment = Assessment(json.loads(scores), json.loads(observations), critique)
            trajectories[prompt_id].candidates.append(Candidate(Draft(text, origin), number, assessment))
    finally:
        database.close()
    return [trajectory for trajectory in trajectories.values() if trajectory.candidates], made["settings"]


def _meta(database: sqlite3.Connection) -> dict[str, Any] | None:
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return None
    return {key: json.loads(value) for key, value in database.execute("SELECT key, value FROM meta")}


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
