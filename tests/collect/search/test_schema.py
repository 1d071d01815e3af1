"""What a store says of itself, and what readers do with one that is damaged, another's, or can't be written."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from collect.backends.video import read_video, video_fps, write_video
from collect.protocols import Verdict
from collect.search.export import export
from collect.search.run import run
from collect.search.schema import APPLICATION_ID, DATABASE, SCHEMA_VERSION
from collect.search.store import Store
from collect.search.trajectories import read_seed_scores, read_trajectories, read_videos
from tests.collect.fakes import FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "prompts.txt").write_text("a red box\nthe sea\nx falls\nmilk in tea\n")
    parts = {"rewriter": FakeRewriter(), "proposer": FakeProposer()}
    run(folder / "prompts.txt", folder / "out", FakeGenerator(), [FakeVerifier("fake")], **parts, rounds=2)
    return folder / "out"


def read_all(folder: Path) -> None:
    read_trajectories(folder)
    read_seed_scores(folder)
    read_videos(folder)


def test_a_store_says_what_it_is(finished: Path) -> None:
    with closing(sqlite3.connect(finished / DATABASE)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_reading_writes_nothing_even_beside_the_store(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "read"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folder.chmod(0o555)
    read_all(folder)
    folder.chmod(0o755)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_a_killed_run_left_in_the_journal_is_read(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "killed"))
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute("UPDATE prompts SET prompt = 'as it is in the journal'")
        database.commit()
        shutil.copytree(folder, tmp_path / "kept")
    assert (tmp_path / "kept" / f"{DATABASE}-wal").stat().st_size
    searches, _ = read_trajectories(tmp_path / "kept")
    assert {search.prompt.prompt for search in searches} == {"as it is in the journal"}


def garbled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 512] = random.Random(page).randbytes(512)
    path.write_bytes(data)


def sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            database.executescript(";".join(("PRAGMA foreign_keys = OFF", *statements)))

    return change


def another_program(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE meta (name TEXT, value TEXT)", "INSERT INTO meta VALUES ('a', 'b')")(path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is no sound database"),
    "90 bytes": (lambda path: path.write_bytes(path.read_bytes()[:90]), "is no sound database"),
    "garbage inside": (garbled, "is no sound database"),
    "text": (
        lambda path: path.write_text("not a database, but long enough to be looked at. " * 20),
        "no sound database",
    ),
    "another program's": (another_program, "is a database of another program; choose another folder"),
    "another program's id": (sql("PRAGMA application_id = 7"), "is a database of another program"),
    "no version": (sql("DELETE FROM meta WHERE key = 'schema_version'"), "it lacks schema_version"),
    "version as text": (
        sql("UPDATE meta SET value = '\"2\"' WHERE key = 'schema_version'"),
        "should be a whole number",
    ),
    "version 0": (sql("UPDATE meta SET value = '0' WHERE key = 'schema_version'"), "has layout 0, this version knows"),
    "meta is no JSON": (
        sql("UPDATE meta SET value = 'x' WHERE key = 'settings'"),
        "settings in the table meta, is not",
    ),
    "table gone": (sql("DROP TABLE verdicts"), "lacks the table verdicts"),
    "column gone": (sql("ALTER TABLE verdicts DROP COLUMN error"), "lacks the table verdicts or columns"),
    "unknown prompt": (sql("UPDATE candidates SET prompt_id = 'zz' WHERE rowid = 1"), "is no sound database"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_database_is_named(finished: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "damaged"))
    harm, message = DAMAGES[damage]
    harm(folder / DATABASE)
    harmed = (folder / DATABASE).read_bytes()
    for read in (read_trajectories, lambda folder: Store(folder, {})):
        with pytest.raises(ValueError, match=message) as refused:
            read(folder)
        assert str(folder / DATABASE) in str(refused.value)
        assert (folder / DATABASE).read_bytes() == harmed


def test_scores_that_are_none_are_named(finished: Path, tmp_path: Path) -> None:
    for number, value in enumerate(("x", '{"a": NaN}', "[1]", '{"a": "1"}', '{"a": null}')):
        folder = Path(shutil.copytree(finished, tmp_path / str(number)))
        sql(f"UPDATE candidates SET scores = '{value}'", f"UPDATE verdicts SET scores = '{value}'")(folder / DATABASE)
        for read in (read_trajectories, read_seed_scores, read_videos):
            with pytest.raises(ValueError, match=r"table (candidates|verdicts), prompt \w+,"):
                read(folder)


def test_paths_in_a_store_do_not_depend_on_where_a_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Painter(FakeGenerator):
        def generate(self, requests) -> None:
            for request in requests:
                write_video(request.path, np.full((2, 16, 16, 3), request.seed % 256, np.uint8))

    class Blind(FakeVerifier):
        def judge(self, prompts, videos):
            return [Verdict({"a": 0.5}, "") for _ in videos]

    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red box\n")
    run(Path("prompts.txt"), Path("a"), Painter(), [Blind("fake")], rounds=0, videos=Path("b"))
    export(Path("a"), Path("exported"))
    monkeypatch.chdir("/")
    for videos in read_videos(tmp_path / "a").values():
        assert all(video.path.is_file() for video in videos)
    assert list((tmp_path / "exported/videos").glob("*.mp4"))


@pytest.mark.parametrize("name", ["2026-11-25T10:30:00", "file:x", "http:x", "-x", "%d", "concat:a|b", "x?mode=ro#"])
def test_a_name_is_no_protocol_option_or_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    video = Path(name) / "a:b.mp4"
    write_video(video, np.full((2, 16, 16, 3), 128, np.uint8))
    assert read_video(video).shape == (2, 16, 16, 3)
    assert video_fps(video) == 8
    with Store(Path(name), {"rounds": 3}) as store:
        store.finish()
    assert read_trajectories(Path(name)) == ([], {"rounds": 3})
    assert [path.name for path in tmp_path.iterdir()] == [name]
