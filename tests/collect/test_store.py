"""The store and the studio: what is made once is kept, whatever happens."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collect.attempts import BackendError
from collect.sspo import Draft, optimise
from collect.store import DATABASE, Store, Take, read_trajectories
from collect.studio import Studio, seeds_of
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
        store.enter(PROMPTS)
        studio = Studio(store, generator, {"fake": FakeVerifier()}, num_seeds=2, purpose="test")
        for _ in optimise(PROMPTS, studio.assess, store, FakeRewriter(), FakeProposer(), rounds, patience=2):
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
        "import sys; from pathlib import Path; from tests.collect.test_store import search_and_be_killed; "
        "search_and_be_killed(Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
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
    assert [request.path for request in generator.made] == [video]
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
    store.enter(PROMPTS)
    twice = [Draft("same", "raw"), Draft("same", "rewriter")]
    with pytest.raises(sqlite3.IntegrityError):
        store.remember(0, {PROMPTS[0].id: [Draft("a", "raw")], PROMPTS[1].id: twice})
    assert store.recall(0) is None
    store.remember(0, {})
    assert store.recall(0) == {}


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
    studio = Studio(store, generator, {"fake": FakeVerifier()}, num_seeds=1, purpose="test")
    take = Take(PROMPTS[0], "text", 5)
    first, second = studio.judge([take, take])
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
    studio = Studio(store, FakeGenerator(), verifiers, num_seeds=2, purpose="test")
    (assessment,) = studio.assess([(PROMPTS[0], "text")])
    assert assessment.scores == {"seed/alignment": 0.5}
    assert assessment.observations.keys() == {"flow/alignment", "flow/clarity"}
    assert assessment.critique == "low"
    with_task = Prompt(PROMPTS[0].id, PROMPTS[0].prompt, "it must fall")
    (assessment,) = studio.assess([(with_task, "text")])
    assert assessment.critique == "low 4 letters."


def test_backends_that_answer_too_little_are_named(store: Store) -> None:
    class Lazy(FakeGenerator):
        def generate(self, requests) -> None:
            pass

    class Short(FakeVerifier):
        def judge(self, prompts, videos):
            return super().judge(prompts, videos)[1:]

    takes = [(prompt, f"text {index}") for index, prompt in enumerate(PROMPTS[:3])]
    with pytest.raises(BackendError, match=r"generator Lazy failed 3 times in a row.* wrote no .* for 'text 2'"):
        Studio(store, Lazy(), {"fake": FakeVerifier()}, 1, "test").assess(takes)
    with pytest.raises(BackendError, match=r"verifier short failed 3 times in a row.* 0 verdicts for 1 videos"):
        Studio(store, FakeGenerator(), {"short": Short()}, 1, "test").assess(takes)
