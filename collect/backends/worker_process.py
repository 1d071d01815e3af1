"""A program that is started once and answers requests, a JSON object a line each way."""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import IO, Any

logger = logging.getLogger(__name__)

NUM_ERROR_LINES = 5  # lines of standard error that an error message repeats


class WorkerProcess:
    """One running program.

    It writes ``{"ready": true}`` once it can be asked, and after each request a line with the request's ``id``. Any
    other line on its standard output, which libraries like to write to, goes to the log, and so does its standard
    error.

    Args:
        command: program and arguments.
        folder: to run it in.
        environment: variables that it has beside this program's.
        name: of the worker in the log.
        start_limit: seconds it may take until it is ready.

    Raises:
        RuntimeError: if it ends before it is ready.
        TimeoutError: if it is not ready in time.
        FileNotFoundError: if there is no such program.
    """

    def __init__(
        self, command: Sequence[str], folder: Path | None, environment: dict[str, str], name: str, start_limit: float
    ) -> None:
        self.name = name
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._error_lines: list[str] = []
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that what it starts can be ended with it
        )
        self._process = process
        self.end = weakref.finalize(self, _end, process)
        self._threads = [
            threading.Thread(target=_read_answers, args=(process.stdout, self._answers, name), daemon=True),
            threading.Thread(target=_read_log, args=(process.stderr, self._error_lines, name), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._wait_for("ready", True, start_limit)

    def ask(self, request: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: if the program ends first.
            TimeoutError: if the answer takes too long; the program is ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            logger.debug("%s does not listen; its end is next.", self.name)
        return self._wait_for("id", request["id"], seconds)

    def _wait_for(self, key: str, value: Any, seconds: float | None) -> dict[str, Any]:
        until = None if seconds is None else monotonic() + seconds
        while True:
            try:
                answer = self._answers.get(timeout=None if until is None else max(0, until - monotonic()))
            except queue.Empty:
                self.end()
                raise TimeoutError(f"{self.name} was ended: no answer within {seconds:g} seconds") from None
            if answer is None:
                self.end()
                self._threads[1].join(timeout=5)
                said = " / ".join(self._error_lines) or "nothing on its standard error"
                raise RuntimeError(f"{self.name} ended with code {self._process.returncode}; it said {said}")
            if answer.get(key) == value:
                return answer
            logger.info("%s: %s", self.name, answer)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a program and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        logger.debug("Process %d had ended.", process.pid)
    process.wait()
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # what was not read of it
        process.stdin.close()


def _read_answers(lines: IO[str], answers: "queue.SimpleQueue[dict[str, Any] | None]", name: str) -> None:
    with lines:
        for line in lines:
            try:
                answer = json.loads(line)
            except json.JSONDecodeError:
                answer = None
            if isinstance(answer, dict):
                answers.put(answer)
            elif line.strip():
                logger.info("%s: %s", name, line.rstrip())
    answers.put(None)


def _read_log(lines: IO[str], error_lines: list[str], name: str) -> None:
    with lines:
        for line in lines:
            if line.strip():
                logger.info("%s: %s", name, line.rstrip())
                error_lines[:] = [*error_lines, line.strip()][-NUM_ERROR_LINES:]
