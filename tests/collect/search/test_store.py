"""The store and the renderer: what is made once is kept, whatever happens."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import collect.search.store
from collect.backends.video import write_video
from collect.search.renderer import Renderer, seeds_of
from collect.search.retries import BackendError
from collect.search.schema import DATABASE
from collect.search.sspo import Proposal, optimise
from collect.search.store import Sample, Store
from collect.search.trajectories import read_trajectories
from collect.verifiers import FlowVerifier
from data_modules.records import Prompt, content_id
from tests.collect.fakes import FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier

PROMPTS = [Prompt(content_id(text), text) for text in ("a red box", "a b", "x y", "the sea", "milk in tea")]


class Slow(FakeGenerator):
    """Takes its time over every file, and writes it in two parts that a kill may separate."""

    def generate(self, requests) -> None:
        for request in requests:
            time.sleep(0.004)
            request.path.parent.mkdir(exist_ok=True)
            partial = request.path.with_suffix(".partial")
            partial.write_text(f"{request.prompt}|{request.seed}")
            time.sleep(0.004)
            partial.replace(request.path)
            self.made.append(request)


def run_search(folder: Path, generator: FakeGenerator, rounds: int = 3) -> None:
    with Store(folder, {"rounds": rounds}) as store:
        store.add_prompts(PROMPTS)
        renderer = Renderer(store, generator, {"fake": FakeVerifier()}, num_seeds=2, purpose="test")
        for _ in optimise(PROMPTS, renderer.assess, store, FakeRewriter(), FakeProposer(), rounds, patience=2):
            pass
        store.finish()


def contents(folder: Path) -> dict[str, list[tuple]]:
    database = sqlite3.connect(folder / DATABASE)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {table: sorted(database.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    database.close()
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, {"rounds": 3}) as store:
        yield store


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run_search(folder, FakeGenerator())
    return folder


def search_and_be_killed(folder: Path) -> None:
    """Search in processes of their own that are killed at random moments, then once to the end.

    They are forked, because importing everything again takes seconds; call this where no thread was started.
    """
    rng = random.Random(0)
    kills = 0
    for patience in [*(rng.uniform(0.01, 0.12) for _ in range(20)), None]:
        process = os.fork()
        if process == 0:
            run_search(folder, Slow())
            os._exit(0)
        if patience is not None:
            time.sleep(patience)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        kills += 1
    assert kills >= 3, "the run ended before it could be killed"
    run_search(folder, Slow())


def test_a_killed_run_resumes_to_the_same_database(tmp_path: Path, unbroken: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.collect.search.test_store import search_and_be_killed; "
        "search_and_be_killed(Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        check=True,
        timeout=120,
    )
    assert contents(tmp_path) == contents(unbroken)
    assert read_trajectories(tmp_path) == read_trajectories(unbroken)


def test_a_second_run_finds_everything_made(tmp_path: Path, unbroken: Path) -> None:
    folder = Path(shutil.copytree(unbroken, tmp_path / "copy"))
    generator = FakeGenerator()
    run_search(folder, generator)
    assert generator.made == []
    assert contents(folder) == contents(unbroken)


@pytest.mark.parametrize("harm", [Path.unlink, lambda video: video.write_bytes(video.read_bytes()[:-1])])
def test_a_deleted_or_truncated_video_is_rendered_again(tmp_path: Path, unbroken: Path, harm) -> None:
    folder = Path(shutil.copytree(unbroken, tmp_path / "copy"))
    video = sorted((folder / "videos").iterdir())[3]
    whole = video.read_bytes()
    harm(video)
    generator = FakeGenerator()
    run_search(folder, generator)
    assert [request.path.name for request in generator.made] == [video.name]
    assert video.read_bytes() == whole
    assert contents(folder) == contents(unbroken)


def test_a_second_run_on_an_open_store_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="another run is writing to"):
        Store(store.folder, {"rounds": 3})


def test_a_store_made_with_other_settings_is_refused(store: Store) -> None:
    store.close()
    with pytest.raises(ValueError, match="other settings: rounds was 3 and is now 4"):
        Store(store.folder, {"rounds": 4})
    with Store(store.folder, {"rounds": 3}):
        pass  # refusing left it unlocked


def test_a_round_is_written_whole_or_not_at_all(store: Store) -> None:
    store.add_prompts(PROMPTS)
    twice = [Proposal("same", "raw"), Proposal("same", "rewriter")]
    with pytest.raises(sqlite3.IntegrityError):
        store.save_round(0, {PROMPTS[0].id: [Proposal("a", "raw")], PROMPTS[1].id: twice})
    assert store.load_round(0) is None
    store.save_round(0, {})
    assert store.load_round(0) == {}


def test_reading_an_unfinished_or_missing_store_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not finished; start its collect run again"):
        read_trajectories(store.folder)
    with pytest.raises(FileNotFoundError, match="collect run makes it"):
        read_trajectories(tmp_path / "nowhere")


def test_what_is_read_is_what_was_searched(unbroken: Path) -> None:
    searches, made_with = read_trajectories(unbroken)
    assert [search.prompt for search in searches] == PROMPTS
    assert made_with == {"rounds": 3}
    champions = {row[0]: row[1] for row in contents(unbroken)["champions"]}
    assert {search.prompt.id: search.champion.text for search in searches} == champions


def test_all_texts_of_a_prompt_are_rendered_with_the_same_seeds(unbroken: Path) -> None:
    searches, _ = read_trajectories(unbroken)
    renders = {(prompt, seed) for _, prompt, seed, *_ in contents(unbroken)["renders"]}
    expected = {(c.text, seed) for s in searches for c in s.candidates for seed in seeds_of(s.prompt, 2, "test")}
    assert renders == expected


def test_seeds_differ_by_prompt_and_purpose() -> None:
    every = [s for p in PROMPTS for purpose in ("collect", "evaluate") for s in seeds_of(p, 3, purpose)]
    assert len(set(every)) == len(every)


def test_equal_takes_are_rendered_and_judged_once(store: Store) -> None:
    generator = FakeGenerator()
    renderer = Renderer(store, generator, {"fake": FakeVerifier()}, num_seeds=1, purpose="test")
    sample = Sample(PROMPTS[0], "text", 5)
    first, second = renderer.judge([sample, sample])
    assert first == second
    assert len(generator.made) == 1


def test_the_critique_is_of_the_worst_video_and_only_ranking_verifiers_speak(store: Store) -> None:
    class BySeed(FakeVerifier):
        def judge(self, prompts, videos):
            seeds = [int(video.read_text().split("|")[1]) for video in videos]
            low = min(seeds_of(PROMPTS[0], 2, "test"))
            return [
                type(v)({"alignment": 0.25 if seed == low else 0.75}, "low" if seed == low else "high")
                for v, seed in zip(super().judge(prompts, videos), seeds, strict=True)
            ]

    verifiers = {"seed": BySeed("seed"), "flow": FakeVerifier("flow", ranked=False)}
    renderer = Renderer(store, FakeGenerator(), verifiers, num_seeds=2, purpose="test")
    (assessment,) = renderer.assess([(PROMPTS[0], "text")])
    assert assessment.scores == {"seed/alignment": 0.5}
    assert assessment.observations.keys() == {"flow/alignment", "flow/clarity"}
    assert assessment.critique == "low"
    with_task = Prompt(PROMPTS[0].id, PROMPTS[0].prompt, "it must fall")
    (assessment,) = renderer.assess([(with_task, "text")])
    assert assessment.critique == "low 4 letters."


def test_backends_that_answer_too_little_are_named(store: Store) -> None:
    class Lazy(FakeGenerator):
        def generate(self, requests) -> None:
            pass

    class Short(FakeVerifier):
        def judge(self, prompts, videos):
            return super().judge(prompts, videos)[1:]

    samples = [(prompt, f"text {index}") for index, prompt in enumerate(PROMPTS[:3])]
    with pytest.raises(BackendError, match=r"generator Lazy failed 3 times in a row.* wrote no .* for 'text 2'"):
        Renderer(store, Lazy(), {"fake": FakeVerifier()}, 1, "test").assess(samples)
    with pytest.raises(BackendError, match=r"verifier short failed 3 times in a row.* 0 verdicts for 1 videos"):
        Renderer(store, FakeGenerator(), {"short": Short()}, 1, "test").assess(samples)


LAYOUT_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE prompts (id TEXT PRIMARY KEY, position INTEGER NOT NULL, prompt TEXT NOT NULL, task TEXT);
CREATE TABLE rounds (number INTEGER PRIMARY KEY);
CREATE TABLE candidates (
    prompt_id TEXT NOT NULL REFERENCES prompts (id), number INTEGER NOT NULL,
    round INTEGER NOT NULL REFERENCES rounds (number), text TEXT NOT NULL, origin TEXT NOT NULL,
    scores TEXT, observations TEXT, critique TEXT, PRIMARY KEY (prompt_id, number), UNIQUE (prompt_id, text)
);
CREATE TABLE renders (
    id TEXT PRIMARY KEY, prompt TEXT NOT NULL, seed INTEGER NOT NULL, generator TEXT NOT NULL, video TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TABLE verdicts (
    prompt_id TEXT NOT NULL, render_id TEXT NOT NULL REFERENCES renders (id), verifier TEXT NOT NULL,
    scores TEXT NOT NULL, critique TEXT NOT NULL, PRIMARY KEY (prompt_id, render_id, verifier)
);
CREATE TABLE champions (
    prompt_id TEXT PRIMARY KEY REFERENCES prompts (id), text TEXT NOT NULL, average_rank REAL NOT NULL,
    num_candidates INTEGER NOT NULL
);
"""


@pytest.fixture
def old(tmp_path: Path, unbroken: Path) -> Path:
    """A store as the first layout held it, with the contents of the unbroken run."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "old"))
    rows = contents(folder)
    (folder / DATABASE).unlink()
    database = sqlite3.connect(folder / DATABASE)
    database.executescript(LAYOUT_1)
    for table in ("prompts", "rounds", "candidates", "renders", "verdicts", "champions"):
        width = len(database.execute(f"PRAGMA table_info({table})").fetchall())
        for values in rows[table]:
            # The later layout's only new columns are the last ones, and empty here.
            database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * width)})", values[:width])
    for key, value in {"schema_version": "1", "settings": '{"rounds": 3}', "finished": "true"}.items():
        database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
    database.commit()
    database.close()
    return folder


def test_a_store_of_the_first_layout_is_read_as_it_is(old: Path, unbroken: Path) -> None:
    assert read_trajectories(old) == read_trajectories(unbroken)


def test_a_store_of_the_first_layout_is_gone_on_with_in_the_present_one(old: Path, unbroken: Path) -> None:
    generator = FakeGenerator()
    run_search(old, generator)
    assert generator.made == []
    assert contents(old) == contents(unbroken)
    fresh, migrated = sqlite3.connect(unbroken / DATABASE), sqlite3.connect(old / DATABASE)
    for table in contents(unbroken):
        columns = [database.execute(f"PRAGMA table_info({table})").fetchall() for database in (fresh, migrated)]
        assert columns[0] == columns[1]
    fresh.close()
    migrated.close()


def test_a_migration_that_is_killed_leaves_the_first_layout(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(old)
    broken = {1: collect.search.schema.MIGRATIONS[1] + "ALTER TABLE absent ADD COLUMN more"}
    monkeypatch.setattr(collect.search.store, "MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        Store(old, {"rounds": 3})
    assert contents(old) == before


def test_a_store_of_a_later_layout_or_no_database_is_refused(store: Store) -> None:
    store.close()
    database = sqlite3.connect(store.folder / DATABASE)
    database.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    database.commit()
    database.close()
    with pytest.raises(ValueError, match="has layout 99, this version knows up to"):
        Store(store.folder, {"rounds": 3})
    (store.folder / DATABASE).write_text("not a database, but long enough to be looked at. " * 20)
    with pytest.raises(ValueError, match="is no sound database"):
        Store(store.folder, {"rounds": 3})


def test_settings_that_were_not_written_down_before_are_from_now_on(store: Store) -> None:
    store.close()
    with Store(store.folder, {"rounds": 3, "backends": {"proposer": {"temperature": 1.0}}}):
        pass
    with pytest.raises(ValueError, match=r"backends\.proposer\.temperature was 1\.0 and is now 0\.5"):
        Store(store.folder, {"rounds": 3, "backends": {"proposer": {"temperature": 0.5}}})


def test_a_locked_database_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with Store(tmp_path, {}, busy_timeout=0.3) as store:
        other = sqlite3.connect(tmp_path / DATABASE, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match=r"has been locked by another program for 0\.3 seconds; end it and start"):
            store.add_prompts(PROMPTS)
        other.rollback()
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.1, other.rollback)
        release.start()
        store.add_prompts(PROMPTS)  # waits
        release.join()
        other.close()
        assert store.load_round(0) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


class Large(FakeGenerator):
    """Writes videos of 15 kB."""

    def generate(self, requests) -> None:
        for request in requests:
            request.path.parent.mkdir(exist_ok=True)
            partial = request.path.with_suffix(".partial")
            partial.write_text(f"{request.prompt}|{request.seed}|{'x' * 15_000}")
            partial.replace(request.path)
            self.made.append(request)


def test_a_full_disk_stops_the_run_with_what_was_made_kept(small_disk: Path, tmp_path: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(800_000))
    with pytest.raises((BackendError, OSError), match=r"No space left on device|is the disk full\? Make room"):
        run_search(small_disk, Large(), rounds=1)
    ballast.unlink()
    made = set((small_disk / "videos").glob("*.mp4"))
    assert len(made) > 3
    generator = Large()
    run_search(small_disk, generator, rounds=1)
    run_search(tmp_path / "unbroken", Large(), rounds=1)
    again = {path.name for path in made} & {request.path.name for request in generator.made}
    assert len(again) <= generator.batch_size  # the batch that was in place but not yet written down
    assert read_trajectories(small_disk) == read_trajectories(tmp_path / "unbroken")


class Painter(FakeGenerator):
    """Writes real video files."""

    def generate(self, requests) -> None:
        for request in requests:
            write_video(request.path, np.full((2, 16, 16, 3), request.seed % 256, np.uint8))
        self.made.extend(requests)


def test_stores_share_their_videos_in_one_folder(tmp_path: Path) -> None:
    samples = [Sample(prompt, prompt.prompt, 1) for prompt in PROMPTS]
    made = []
    for name in ("labels", "collect"):
        generator = Painter()
        with Store(tmp_path / name, {}, tmp_path / "videos") as store:
            Renderer(store, generator, {"flow": FlowVerifier()}, 1, "test").judge(samples)
            assert store.num_renders() == len(samples)
        made.append(len(generator.made))
    assert made == [len(samples), 0]
    refused = pytest.raises(ValueError, match=r"another run is writing to .*videos")
    with Store(tmp_path / "labels", {}, tmp_path / "videos"), refused:
        Store(tmp_path / "collect", {}, tmp_path / "videos")


def test_a_truncated_video_of_another_store_is_rendered_again(tmp_path: Path) -> None:
    sample = Sample(PROMPTS[0], "text", 1)
    for name, expected in (("first", 1), ("second", 1)):
        generator = Painter()
        with Store(tmp_path / name, {}, tmp_path / "videos") as store:
            renderer = Renderer(store, generator, {"flow": FlowVerifier()}, 1, "test")
            renderer.judge([sample])
            video = renderer.video(sample).path
        assert len(generator.made) == expected
        video.write_bytes(video.read_bytes()[:-100])
