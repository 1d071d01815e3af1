"""Video models that live in a program of their own, behind the ``Generator`` protocol."""

import hashlib
import json
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from collect.backends.identity import add_sample
from collect.backends.video import read_video
from collect.backends.worker_process import WorkerProcess
from collect.protocols import RenderRequest

MAX_LOSSES = 2  # processes that one video may cost


class CommandGenerator:
    """A program that makes a video for each request it reads: a model with an environment of its own, or an API.

    The program is started once and loads its model once. It writes a line ``{"ready": true}`` to its standard output,
    and then reads requests from its standard input, a JSON object a line::

        {"id": 1, "prompt": "a red ball", "seed": 7, "path": "/videos/1.mp4"}

    When a video is written it writes ``{"id": 1}``, or ``{"id": 1, "error": "..."}`` if there is none. Its input ends
    when it is no longer needed. What else it writes goes to the log.

    A program that dies is started again and asked again once; one that takes too long is ended. A video is put in place
    once it was read back whole. Whether the same prompt and seed give the same video is up to the program.

    Args:
        command: program and arguments; ``{worker}`` in them stands for the number of the worker, from 0.
        folder: to run the program in; by default here.
        environment: variables for it, as ``CUDA_VISIBLE_DEVICES: "{worker}"``.
        num_workers: how many to run, each with its own model.
        num_frames: that a video must have; by default any number.
        model: checkpoint files or folders, whose content is part of what the model is. The files that ``command`` names
            always are.
        start_limit: seconds until a program must be ready.
        time_limit: seconds that a video may take.

    Raises:
        ValueError: if the program cannot be started, or does not become ready.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        num_workers: int = 1,
        num_frames: int | None = None,
        model: list[Path] | None = None,
        start_limit: float = 1800.0,
        time_limit: float = 3600.0,
    ) -> None:
        if num_workers < 1 or start_limit <= 0 or time_limit <= 0:
            raise ValueError(
                "num_workers must be at least 1, start_limit and time_limit above 0, "
                f"got {num_workers}, {start_limit} and {time_limit}."
            )
        if not command:
            raise ValueError("command is empty; give a program and its arguments.")
        self.command = command
        self.folder = folder
        self.environment = environment or {}
        self.num_frames = num_frames
        self.start_limit = start_limit
        self.time_limit = time_limit
        self.batch_size = num_workers
        self.fingerprint = self._identify(model or [])
        self._ids = count(1)
        self._numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._workers: dict[int, WorkerProcess] = {}
        try:
            with ThreadPoolExecutor(num_workers) as pool:
                self._workers.update(zip(range(num_workers), pool.map(self._start, range(num_workers)), strict=True))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{command[0]} cannot be used: {error}") from error
        for number in range(num_workers):
            self._numbers.put(number)

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        """Write one video file per request.

        Raises:
            RuntimeError: if the program fails at one of them or leaves no whole video; the others are there.
            TimeoutError: if one takes too long.
        """
        with ThreadPoolExecutor(len(self._workers)) as pool:
            list(pool.map(self._render, requests))

    def _render(self, request: RenderRequest) -> None:
        partial = request.path.with_name(f".{request.path.stem}.partial.mp4").absolute()
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        asked = {"id": next(self._ids), "prompt": request.prompt, "seed": request.seed, "path": str(partial)}
        number = self._numbers.get()
        try:
            answer = self._ask(number, asked)
        finally:
            self._numbers.put(number)
        if answer.get("error"):
            partial.unlink(missing_ok=True)
            raise RuntimeError(f"{self._name(number)} made no video of {request.prompt!r}: {answer['error']}")
        self._check(partial, request)
        partial.replace(request.path)

    def _ask(self, number: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask a worker, and where its process dies, the next one in its place."""
        for _ in range(MAX_LOSSES - 1):
            try:
                return self._alive(number).ask(asked, self.time_limit)
            except RuntimeError:
                Path(asked["path"]).unlink(missing_ok=True)
        return self._alive(number).ask(asked, self.time_limit)

    def _alive(self, number: int) -> WorkerProcess:
        if not self._workers[number].end.alive:
            self._workers[number] = self._start(number)
        return self._workers[number]

    def _start(self, number: int) -> WorkerProcess:
        return WorkerProcess(
            [part.replace("{worker}", str(number)) for part in self.command],
            self.folder,
            {name: value.replace("{worker}", str(number)) for name, value in self.environment.items()},
            self._name(number),
            self.start_limit,
        )

    def _check(self, path: Path, request: RenderRequest) -> None:
        try:
            frames = len(read_video(path))
        except (FileNotFoundError, ValueError) as error:
            raise RuntimeError(f"{self.command[0]} left no whole video of {request.prompt!r}: {error}") from error
        if self.num_frames is not None and frames != self.num_frames:
            path.unlink()
            raise RuntimeError(
                f"{self.command[0]} left a video of {frames} frames of {request.prompt!r} where num_frames is "
                f"{self.num_frames}."
            )

    def _name(self, number: int) -> str:
        return f"{Path(self.command[0]).name} {number}"

    def _identify(self, model: Sequence[Path]) -> str:
        """Digest of the command, of the files it names and of the model's."""
        digest = hashlib.sha256(json.dumps([self.command, self.environment, self.num_frames]).encode())
        here = self.folder or Path()
        named = [here / part for part in self.command[1:] if (here / part).is_file()]
        missing = [str(path) for path in model if not path.exists()]
        if missing:
            raise FileNotFoundError(f"{', '.join(missing)} does not exist; model names the model's files and folders.")
        for path in (*named, *model):
            for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
                add_sample(digest, file)
        return digest.hexdigest()[:16]
