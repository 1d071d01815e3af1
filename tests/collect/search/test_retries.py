"""Backends that fail: what is tried again, what is given up, what stops a run, and what is kept."""

import sqlite3
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from collect.backends.memory import is_out_of_memory
from collect.protocols import Verdict
from collect.search.renderer import Renderer
from collect.search.retries import BackendError
from collect.search.schema import DATABASE
from collect.search.sspo import optimise
from collect.search.store import Sample, Store
from collect.search.trajectories import read_trajectories
from data_modules.records import Prompt, content_id
from tests.collect.fakes import FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier

PROMPTS = [Prompt(content_id(text), text) for text in ("a red box", "a b", "x y", "the sea", "milk in tea")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, {}) as store:
        store.add_prompts(PROMPTS)
        yield store


def samples(num_seeds: int = 1) -> list[Sample]:
    return [Sample(prompt, prompt.prompt, seed) for prompt in PROMPTS for seed in range(num_seeds)]


def judge(store: Store, generator: FakeGenerator, verifier: FakeVerifier, num_seeds: int = 1, **kwargs):
    return Renderer(store, generator, {verifier.name: verifier}, 1, "test", **kwargs).judge(samples(num_seeds))


def rows(store: Store, query: str) -> list[tuple]:
    database = sqlite3.connect(store.folder / DATABASE)
    found = database.execute(query).fetchall()
    database.close()
    return found


class Small(FakeGenerator):
    """Has memory for so many videos at once."""

    def __init__(self, batch_size: int, room: int, error: Exception) -> None:
        super().__init__(batch_size)
        self.room = room
        self.error = error
        self.calls: list[int] = []

    def generate(self, requests) -> None:
        self.calls.append(max(len(requests), self.batch_size))  # batches are filled up
        if self.calls[-1] > self.room:
            raise self.error
        super().generate(requests)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_generator_that_runs_out_of_memory_makes_smaller_batches_from_then_on(store: Store, error: Exception) -> None:
    generator = Small(4, 1, error)
    verdicts = judge(store, generator, FakeVerifier())
    assert all(row["fake"].error is None for row in verdicts)
    assert generator.calls == [4, 2, 1, 1, 1, 1, 1]
    assert store.num_failures() == 2


def test_a_verifier_that_runs_out_of_memory_judges_fewer_videos_at_once(store: Store) -> None:
    sizes = []

    class Big(FakeVerifier):
        def judge(self, prompts, videos):
            sizes.append(len(videos))
            if len(videos) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().judge(prompts, videos)

    verdicts = judge(store, FakeGenerator(batch_size=5), Big())
    assert sizes == [5, 2, 2, 1]
    assert verdicts == judge(store, FakeGenerator(), FakeVerifier())


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_next_try_has_the_room_that_the_failed_one_took(store: Store) -> None:
    class Tensors(list):
        """What a call holds; a plain list has no weak references."""

    class Leaky(FakeGenerator):
        def __init__(self) -> None:
            super().__init__(4)
            self.held: list[weakref.ref] = []

        def generate(self, requests) -> None:
            assert not any(ref() for ref in self.held)
            tensors = Tensors()
            self.held.append(weakref.ref(tensors))
            if len(requests) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().generate(requests)

    generator = Leaky()
    assert all(row["fake"].error is None for row in judge(store, generator, FakeVerifier()))
    assert len(generator.held) == 4  # 4, then 2, 2 and 1


def test_a_moment_of_trouble_is_noted_and_costs_little(store: Store) -> None:
    class Flaky(FakeGenerator):
        def generate(self, requests) -> None:
            if not self.made:
                super().generate(requests[:1])
                raise ConnectionError("reset by peer")
            super().generate(requests)

    generator = Flaky()
    assert all(row["fake"].error is None for row in judge(store, generator, FakeVerifier()))
    assert len(generator.made) == len(PROMPTS) + 1  # what a failed call had made is not trusted
    ((backend, render_ids, error),) = rows(store, "SELECT backend, render_ids, error FROM failures")
    assert (backend, error) == ("generator Flaky", "ConnectionError: reset by peer")
    assert render_ids.count(",") == 2  # three videos were asked for


def test_one_bad_prompt_takes_none_of_its_neighbours_with_it(store: Store) -> None:
    class Picky(FakeVerifier):
        def judge(self, prompts, videos):
            if any(prompt.prompt == "a b" for prompt in prompts):
                raise ValueError("nothing here can be asked about 'a b'")
            return super().judge(prompts, videos)

    verdicts = judge(store, FakeGenerator(batch_size=20), Picky(), num_seeds=4)  # four in a row, but of one prompt
    failed = {sample.prompt.prompt for sample, row in zip(samples(4), verdicts, strict=True) if row["fake"].error}
    assert failed == {"a b"}
    why = "ValueError: nothing here can be asked about 'a b'"
    assert rows(store, "SELECT DISTINCT scores, critique, error FROM verdicts WHERE error IS NOT NULL") == [
        ("{}", "", why)
    ]


def test_a_verdict_declared_failed_fails_its_video_alone_and_the_next_run_asks_for_it_again(store: Store) -> None:
    asked = []

    class Unparseable(FakeVerifier):
        def judge(self, prompts, videos):
            asked.extend(videos)
            verdicts = super().judge(prompts, videos)
            return [
                Verdict.failed("no score in 'maybe'") if "sea" in p.prompt else v
                for p, v in zip(prompts, verdicts, strict=True)
            ]

    first = judge(store, FakeGenerator(), Unparseable())
    assert [row["fake"].error for row in first] == [None, None, None, "no score in 'maybe'", None]
    verifier = Unparseable()
    renderer = Renderer(store, FakeGenerator(), {"fake": verifier}, 1, "test")
    asked.clear()
    assert renderer.judge(samples()) == renderer.judge(samples()) == first
    assert len(asked) == 1  # by this run once, and nothing else is
    assert judge(store, FakeGenerator(), FakeVerifier())[3]["fake"].error is None
    assert store.num_failures() == 0


def test_a_verifier_that_says_nothing_about_anything_stops_the_run_early(tmp_path: Path) -> None:
    """An endpoint that calls every request wrong: no video after the first few is rendered for it."""

    class Refusing(FakeVerifier):
        def judge(self, prompts, videos):
            return [Verdict.failed("400 Bad Request: temperature is not supported") for _ in videos]

    texts = [f"box number {number}" for number in range(40)]
    asked = [Sample(Prompt(content_id(text), text), text, 1) for text in texts]
    generator = FakeGenerator(batch_size=1)
    with (
        Store(tmp_path / "out", {}) as store,
        pytest.raises(
            BackendError, match=r"verifier fake had no verdict on 8 videos in a row, the last time for 400 Bad Request"
        ),
    ):
        Renderer(store, generator, {"fake": Refusing()}, 1, "test").judge(asked)
    assert len(generator.made) == 8
    mended = FakeGenerator(batch_size=1)
    with Store(tmp_path / "out", {}) as store:
        verdicts = Renderer(store, mended, {"fake": FakeVerifier()}, 1, "test").judge(asked)
    assert all(row["fake"].error is None for row in verdicts)
    assert len(mended.made) == 32


def test_a_prompt_that_nothing_can_be_said_of_stops_no_run(store: Store) -> None:
    class Picky(FakeVerifier):
        def judge(self, prompts, videos):
            return [
                Verdict.failed("unclear") if prompt.prompt == "a b" else verdict
                for prompt, verdict in zip(prompts, super().judge(prompts, videos), strict=True)
            ]

    verdicts = judge(store, FakeGenerator(batch_size=20), Picky(), num_seeds=20)
    assert sum(row["fake"].error is not None for row in verdicts) == 20


@pytest.mark.parametrize("error", [TypeError("unexpected keyword"), ValueError("13 frames"), NotImplementedError()])
@pytest.mark.parametrize(("batch_size", "calls"), [(1, 3), (4, 4)])
def test_what_can_never_work_is_not_tried_again(store: Store, error: Exception, batch_size: int, calls: int) -> None:
    generator = Small(batch_size, 0, error)
    with pytest.raises(BackendError, match="generator Small failed 3 times in a row"):
        judge(store, generator, FakeVerifier())
    assert len(generator.calls) == calls


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.5, float("inf")])
def test_scores_that_are_none_are_refused(store: Store, score: float) -> None:
    class Off(FakeVerifier):
        def judge(self, prompts, videos):
            return [Verdict({"alignment": score}, "") for _ in videos]

    with pytest.raises(BackendError, match=r"scores must be in \[0, 1\]"):
        judge(store, FakeGenerator(), Off())


def test_a_call_that_runs_out_of_time_is_the_last_one_and_leaves_nothing_under_a_right_name(store: Store) -> None:
    """Two calls at once share one scheduler, and both videos are wrong."""
    calls, over, late = [], threading.Event(), threading.Event()

    class Hanging(FakeGenerator):
        def generate(self, requests) -> None:
            calls.append(len(requests))
            if len(calls) == 2:
                assert over.wait(30)
                super().generate(requests)
                late.set()
                return
            super().generate(requests)

    with pytest.raises(BackendError, match=r"generator Hanging gave no answer within 0\.3 seconds.*raise time_limit"):
        judge(store, Hanging(batch_size=2), FakeVerifier(), time_limit=0.3)
    over.set()
    assert late.wait(30)  # the call that nobody waits for has written its videos
    assert calls == [2, 2]
    assert rows(store, "SELECT error FROM failures") == [("AbandonedError: no answer within 0.3 seconds",)]
    assert len(list(store.videos.glob("*.mp4"))) == 2
    healthy = FakeGenerator(batch_size=2)
    assert all(row["fake"].error is None for row in judge(store, healthy, FakeVerifier()))
    assert len(healthy.made) == 3
    assert {path.suffix for path in store.videos.iterdir()} == {".mp4"}  # and what it wrote is gone


def search(folder: Path, generator: FakeGenerator, verifier: FakeVerifier | None = None) -> None:
    with Store(folder, {}) as store:
        store.add_prompts(PROMPTS)
        renderer = Renderer(store, generator, {"fake": verifier or FakeVerifier()}, num_seeds=2, purpose="test")
        for _ in optimise(PROMPTS, renderer.assess, store, FakeRewriter(), FakeProposer(), 2, 2):
            pass
        store.finish()


def test_three_failures_in_a_row_stop_the_run_and_what_was_made_is_gone_on_with(tmp_path: Path) -> None:
    class Dying(FakeGenerator):
        def generate(self, requests) -> None:
            if len(self.made) >= 7:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            super().generate(requests)

    dying, healthy = Dying(), FakeGenerator()
    with pytest.raises(
        BackendError, match=r"generator Dying failed 3 times in a row.*illegal memory.*What was made is"
    ):
        search(tmp_path / "broken", dying)
    search(tmp_path / "broken", healthy)
    search(tmp_path / "unbroken", FakeGenerator())
    assert not {r.path.name for r in dying.made} & {r.path.name for r in healthy.made}
    assert read_trajectories(tmp_path / "broken") == read_trajectories(tmp_path / "unbroken")


def test_a_text_without_a_verdict_is_no_champion_and_is_kept_with_the_reason(tmp_path: Path) -> None:
    class Shy(FakeVerifier):
        """Likes "e1" best, but cannot say so; and cannot judge one raw prompt."""

        def judge(self, prompts, videos):
            texts = [video.read_text().split("|")[0] for video in videos]
            return [
                Verdict.failed("too shy") if "e1" in text or text == "the sea" else verdict
                for text, verdict in zip(texts, super().judge(prompts, videos), strict=True)
            ]

    search(tmp_path, FakeGenerator(), Shy())
    searches, _ = read_trajectories(tmp_path)
    assert [s.prompt.prompt for s in searches] == [p.prompt for p in PROMPTS if p.prompt != "the sea"]
    assert all("e1" not in c.text for s in searches for c in s.candidates)
    assert {f.assessment.error for s in searches for f in s.failures} == {"fake: too shy"}
    database = sqlite3.connect(tmp_path / DATABASE)
    lost = database.execute("SELECT scores, error FROM candidates WHERE error IS NOT NULL").fetchall()
    (champions,) = database.execute("SELECT COUNT(*) FROM champions").fetchone()
    database.close()
    assert set(lost) == {(None, "fake: too shy")}
    assert champions == len(searches)
