"""Trajectories in SQLite, videos in files. One writer; what is committed survives a killed run.

A video's file is complete before its row is written, so a row vouches for a file of so many bytes. Videos are named by
content, so several stores can share one folder of them: what one rendered the others find.
"""

import contextlib
import fcntl
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from collect.backends.video import video_fps
from collect.protocols import RenderRequest, Verdict
from collect.search.schema import (
    BUSY_TIMEOUT,
    DATABASE,
    IDENTITY,
    MIGRATIONS,
    SCHEMA,
    SCHEMA_VERSION,
    Meta,
    clear_errors,
    dump_json,
    read_meta,
    scores_of,
)
from collect.search.sspo import Proposal, Trajectory, average_ranks
from data_modules.records import Prompt, content_id
from data_modules.secrets import redacted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One video to be judged: a text, rendered with a seed, as an answer to a raw prompt."""

    prompt: Prompt
    text: str
    seed: int


@dataclass(frozen=True)
class Render:
    """A sample and where its video belongs."""

    sample: Sample
    request: RenderRequest


class Store:
    """The one writer of a folder of trajectories; a context manager whose methods any thread may call.

    Args:
        folder: made where missing; what an earlier run with the same settings left there is found again, and a
            database of an older layout is brought to the present one.
        settings: whatever decides what the trajectories will be, as JSON.
        videos: folder of the videos, for stores that share them; by default ``videos`` in the store's own.
        busy_timeout: seconds to wait for another program that has the database locked.

    Raises:
        ValueError: if another run has one of the folders open, or the database was made with other settings, by a
            later version, or is none.
        OSError: if the database is locked for longer, or the disk is full. What was committed is kept; this holds
            for every method.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], videos: Path | None = None, busy_timeout: float = BUSY_TIMEOUT
    ) -> None:
        self.folder = folder
        self.videos = videos or folder / "videos"
        self._busy_timeout = busy_timeout
        self._one_thread = threading.RLock()
        with contextlib.ExitStack() as stack:
            for locked in (folder,) if videos is None else (folder, videos):
                stack.enter_context(_lock(locked))
            # As an absolute path, no name is taken for a URI.
            path = (folder / DATABASE).absolute()
            with self._clear_errors():
                self._database = sqlite3.connect(path, timeout=busy_timeout, check_same_thread=False)
                stack.callback(self._database.close)
                made = read_meta(self._database, folder / DATABASE)  # before anything is written to another's
                self._database.execute("PRAGMA journal_mode=WAL")
                self._check(made, settings)
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the next run in."""
        self._open.close()

    def _clear_errors(self) -> contextlib.AbstractContextManager[None]:
        return clear_errors(self.folder / DATABASE, self._busy_timeout)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is written or nothing."""
        with self._one_thread, self._clear_errors(), self._database:
            yield self._database

    def _read(self, query: str, *values: object) -> list[Any]:
        with self._one_thread, self._clear_errors():
            return self._database.execute(query, values).fetchall()

    def _check(self, made: Meta | None, settings: dict[str, Any]) -> None:
        now = json.loads(dump_json(settings))
        if made is None:
            with self._writing():
                # One transaction: a run killed here leaves an empty file, which the next one takes for new.
                self._database.execute("BEGIN")
                for statement in (*SCHEMA.split(";"), *IDENTITY):
                    self._database.execute(statement)
                values = {"schema_version": SCHEMA_VERSION, "settings": now, "finished": False}
                self._database.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [(key, dump_json(value)) for key, value in values.items()]
                )
            return
        before = made["settings"]
        # What was not yet written down when the store was made cannot have been changed, as far as anyone can tell.
        changed = [key for key in before if before[key] != now.get(key)]
        if changed:
            differences = "; ".join(_difference(key, before[key], now.get(key)) for key in changed)
            raise ValueError(
                f"{self.folder} was made with other settings: {differences}. "
                "Choose another folder, delete this one, or use its settings."
            )
        with self._writing():
            self._database.execute("BEGIN")
            for version in range(made["schema_version"], SCHEMA_VERSION):
                logger.info("%s: layout %d becomes %d.", self.folder / DATABASE, version, version + 1)
                for statement in MIGRATIONS[version].split(";"):
                    self._database.execute(statement)
            for statement in IDENTITY:
                self._database.execute(statement)
            for key, value in {"schema_version": SCHEMA_VERSION, "settings": {**now, **before}}.items():
                self._database.execute("UPDATE meta SET value = ? WHERE key = ?", (dump_json(value), key))

    # The search's rounds.

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Note the prompts to search for."""
        rows = [(p.id, position, p.prompt, p.task) for position, p in enumerate(prompts)]
        with self._writing() as database:
            database.executemany("INSERT OR IGNORE INTO prompts VALUES (?, ?, ?, ?)", rows)

    def load_round(self, number: int) -> dict[str, list[Proposal]] | None:
        """Read the proposals of a round by prompt id; ``None`` if the round has none yet."""
        if not self._read("SELECT 1 FROM rounds WHERE number = ?", number):
            return None
        proposals: dict[str, list[Proposal]] = {}
        query = "SELECT prompt_id, text, origin FROM candidates WHERE round = ? ORDER BY prompt_id, number"
        for prompt_id, text, origin in self._read(query, number):
            proposals.setdefault(prompt_id, []).append(Proposal(text, origin))
        return proposals

    def save_round(self, number: int, proposals: dict[str, list[Proposal]]) -> None:
        """Write all proposals of a round at once."""
        with self._writing() as database:
            database.execute("INSERT INTO rounds VALUES (?)", (number,))
            for prompt_id, texts in proposals.items():
                query = "SELECT COUNT(*) FROM candidates WHERE prompt_id = ?"
                (before,) = database.execute(query, (prompt_id,)).fetchone()
                database.executemany(
                    "INSERT INTO candidates (prompt_id, number, round, text, origin) VALUES (?, ?, ?, ?, ?)",
                    [
                        (prompt_id, before + i, number, proposal.text, proposal.origin)
                        for i, proposal in enumerate(texts)
                    ],
                )

    def save_results(self, trajectories: Sequence[Trajectory]) -> None:
        """Write assessments and champions of these searches; one that was given up has no champion."""
        update = (
            "UPDATE candidates SET scores = ?, observations = ?, critique = ?, error = ? "
            "WHERE prompt_id = ? AND text = ?"
        )
        with self._writing() as database:
            for search in trajectories:
                for candidate in (*search.candidates, *search.failures):
                    found, key = candidate.assessment, (search.prompt.id, candidate.text)
                    judged = (dump_json(found.scores), dump_json(found.observations), redacted(found.critique))
                    error = found.error and redacted(found.error)
                    database.execute(update, (*(judged if error is None else (None,) * 3), error, *key))
                if not search.candidates:
                    continue
                rank = float(average_ranks(search.candidates).min())
                database.execute(
                    "INSERT OR REPLACE INTO champions VALUES (?, ?, ?, ?)",
                    (search.prompt.id, search.champion.text, rank, len(search.candidates)),
                )

    def finish(self) -> None:
        """Note that every search is over."""
        with self._writing() as database:
            database.execute("UPDATE meta SET value = ? WHERE key = 'finished'", (dump_json(True),))

    # Videos and verdicts.

    def request(self, sample: Sample, generator: str) -> RenderRequest:
        """Say where the video of a sample belongs; its name is its content: generator, text and seed."""
        name = content_id(generator, sample.text, str(sample.seed))
        return RenderRequest(sample.text, sample.seed, self.videos / f"{name}.mp4")

    def has_render(self, request: RenderRequest, generator: str) -> bool:
        """Whether a video is there, whole: not deleted, not truncated.

        One that this store does not know, because another made it or because a run was killed just then, is added
        if it is a playable file.
        """
        size = request.path.stat().st_size if request.path.is_file() else 0
        rows = self._read("SELECT bytes FROM renders WHERE id = ?", request.path.stem)
        if not rows:
            if size and _playable(request.path):
                self.add_renders([request], generator)
                return True
            return False
        if size != rows[0][0]:
            logger.warning("%s has %d bytes of %d; rendering it again.", request.path, size, rows[0][0])
        return bool(size == rows[0][0])

    def add_renders(self, requests: Sequence[RenderRequest], generator: str) -> None:
        """Note videos whose files are complete."""
        rows = [
            (
                request.path.stem,
                request.prompt,
                request.seed,
                generator,
                self._place(request.path),
                request.path.stat().st_size,
            )
            for request in requests
        ]
        with self._writing() as database:
            database.executemany("INSERT OR REPLACE INTO renders VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _place(self, video: Path) -> str:
        """Where a video is, seen from the store; outside of it, in full."""
        inside, full = self.folder.absolute(), video.absolute()
        return str(full.relative_to(inside) if full.is_relative_to(inside) else full)

    def verdict(self, render: Render, verifier: str) -> Verdict | None:
        """Read a verifier's opinion of a video as an answer to its raw prompt."""
        query = "SELECT scores, critique, error FROM verdicts WHERE prompt_id = ? AND render_id = ? AND verifier = ?"
        rows = self._read(query, render.sample.prompt.id, render.request.path.stem, verifier)
        if not rows:
            return None
        where = f"{self.folder / DATABASE}, table verdicts, prompt {render.sample.prompt.id},"
        return Verdict(scores_of(rows[0][0], where), *rows[0][1:])

    def add_verdicts(self, renders: Sequence[Render], verifier: str, verdicts: Sequence[Verdict]) -> None:
        """Note a verifier's opinions."""
        rows = [
            (
                s.sample.prompt.id,
                s.request.path.stem,
                verifier,
                dump_json(verdict.scores),
                redacted(verdict.critique),
                verdict.error and redacted(verdict.error),
            )
            for s, verdict in zip(renders, verdicts, strict=True)
        ]
        columns = "prompt_id, render_id, verifier, scores, critique, error"
        with self._writing() as database:
            database.executemany(f"INSERT OR REPLACE INTO verdicts ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)

    def add_failure(self, backend: str, requests: Sequence[RenderRequest], error: str) -> None:
        """Note a call of a backend that failed; whether a later one succeeded shows in the verdicts."""
        ids = dump_json([request.path.stem for request in requests])
        with self._writing() as database:
            database.execute(
                "INSERT INTO failures (backend, render_ids, error) VALUES (?, ?, ?)", (backend, ids, redacted(error))
            )

    def num_renders(self) -> int:
        """Count the videos made so far."""
        return int(self._read("SELECT COUNT(*) FROM renders")[0][0])

    def num_failures(self) -> int:
        """Count the failed calls of backends so far."""
        return int(self._read("SELECT COUNT(*) FROM failures")[0][0])


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[TextIO]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another run is writing to {folder}; wait for it or choose another folder.") from error
        yield file


def _playable(path: Path) -> bool:
    try:
        return video_fps(path) > 0
    except ValueError:
        return False


def _difference(key: str, before: Any, now: Any) -> str:
    """Name what changed, as deep inside a setting as it is."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return "; ".join(_difference(f"{key}.{name}", before.get(name), now.get(name)) for name in inner)
    return f"{key} was {before!r} and is now {now!r}"
