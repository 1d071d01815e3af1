"""Text is data to what prints it."""

import io
import logging
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

import collect.__main__
from collect.console import PlainConsole, PlainFormatter
from collect.graph.build import graph
from collect.search.run import run
from data_modules.text import shown
from tests.collect.fakes import FakeGenerator, FakeVerifier

HOSTILE = [
    *("a [red]box[/red]", "close[/red]", "[INST] a dog [/INST]", "[/]", ":smile: \\[x]"),
    *("\x1b[31m\x1b]0;owned\x07", "\x9b1m", "a\u202eb"),
]
WORDS = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=10), min_size=1, max_size=3).map(" ".join)


def sent(show: object, **settings: object) -> str:
    file = io.StringIO()
    PlainConsole(file=file, width=400, **settings).print(show)
    return file.getvalue()


def obeyed(text: str) -> list[str]:
    return [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n"]


@given(WORDS)
def test_whatever_is_printed_is_shown_as_it_is(text: str) -> None:
    table = Table("column", title=text, caption=text)
    table.add_row(text)
    for show in (text, table, Text(text), Text.assemble((text, "bold"), text)):
        assert not obeyed(sent(show))


@pytest.mark.parametrize("text", [text for text in HOSTILE if text == shown(text)])
def test_markup_and_emoji_are_text(text: str) -> None:
    assert sent(text).rstrip("\n") == text


def test_styles_are_still_sent_to_terminals() -> None:
    assert "\x1b[1m" in sent(Text("bold", "bold"), force_terminal=True, color_system="standard")


@given(WORDS)
def test_log_lines_are_shown(text: str) -> None:
    record = logging.LogRecord("name", logging.INFO, "file", 1, "%s and %r", (text, text), None)
    assert not obeyed(PlainFormatter("%(levelname)s %(message)s").format(record))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_search_of_hostile_prompts_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(HOSTILE))
    folder = tmp_path / name.replace("/", "|")
    run(tmp_path / "prompts.txt", folder, FakeGenerator(), [FakeVerifier(name)], rounds=0)
    assert not obeyed(capsys.readouterr().out)


def test_hostile_prompts_find_modifiers_in_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(HOSTILE))
    (tmp_path / "captions.csv").write_text(
        "Input,verb_obj_word,scenario_word,place\na,\"['a [/INST] b']\",\"['[/]']\",\"['a [red]box[/red]', 'c']\"\n"
    )
    folder = tmp_path / "graph [/red]"
    graph(folder, captions=tmp_path / "captions.csv", prompts=tmp_path / "prompts.txt")
    shown = capsys.readouterr().out
    assert "[INST] a dog [/INST]" in shown
    assert "[/red]" in shown
    assert not obeyed(shown)


def test_an_error_shows_what_it_is_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("close[/red].txt", "\x1b[31m.txt"):
        monkeypatch.setattr(sys, "argv", ["collect", "graph", f"--captions={path}", "--output=out"])
        with pytest.raises(SystemExit):
            collect.__main__.main()
        error = capsys.readouterr().err
        assert path.replace("\x1b", "\\x1b") in error
        assert not obeyed(error)
