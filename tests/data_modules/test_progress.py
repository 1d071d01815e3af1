"""Progress is a bar in a terminal and plain lines elsewhere."""

import io
import sys

import pytest

import data_modules.progress
from data_modules.progress import Progress


def test_where_no_terminal_is_progress_is_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data_modules.progress, "SECONDS", 0.0)
    with Progress(total=4, desc="rendering", unit="video") as progress:
        for _ in range(4):
            progress.update()
    written = capsys.readouterr().err
    assert "\r" not in written
    lines = written.splitlines()
    assert len(lines) >= 4
    assert lines[-1].startswith("rendering: 4 of 4 (100%)")
    assert "so far" in lines[2]
    assert "to go" in lines[2]


def test_what_takes_a_moment_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Progress(range(3), "tokenise", leave=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(total=4, desc="rendering", unit="video", mininterval=0) as progress:
        progress.update(4)
    assert "\r" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
