"""Stage 2 on a cluster: the same records as in one process, whatever happens to the workers."""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import ray

import collect.__main__
from collect.protocols import RenderRequest, Verdict
from collect.search.schema import DATABASE
from collect.search.workers import RayWorkers
from data_modules.records import Prompt
from tests.collect.fakes import FakeGenerator, FakeVerifier

# Every worker imports torch, which takes longer than the fakes do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROMPTS = "a red box\na b\nx y\nthe sea\nmilk in tea\nsnow at noon\n"
VERIFIERS = [{"class_path": "tests.collect.fakes.FakeVerifier"}]


class Fatal(FakeGenerator):
    """Its process dies, as if killed for want of memory, half-way through its second batch; but only once."""

    def __init__(self, marker: str, batch_size: int = 3) -> None:
        super().__init__(batch_size)
        self.marker = Path(marker)

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        if self.made and not self.marker.exists():
            self.marker.touch()
            super().generate(requests[:1])
            os.kill(os.getpid(), signal.SIGKILL)
        super().generate(requests)


class Hanging(FakeVerifier):
    """Hangs once."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = Path(marker)

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        if not self.marker.exists():
            self.marker.touch()
            time.sleep(60)
        return super().judge(prompts, videos)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # at Ray's own 15 a busy machine hardly runs them
        ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a config by the command line, and give back what its store holds."""
    (tmp_path / "prompts.txt").write_text(PROMPTS)

    def run(name: str, generator: dict, verifiers: list[dict] = VERIFIERS, **settings) -> dict[str, list[tuple]]:
        config = {
            "prompts": str(tmp_path / "prompts.txt"),
            "output": str(tmp_path / name),
            "generator": generator,
            "verifiers": verifiers,
            "rewriter": {"class_path": "tests.collect.fakes.FakeRewriter"},
            "alternatives": {
                word: {"class_path": "tests.collect.fakes.FakeAlternative", "init_args": {"word": word}}
                for word in ("here", "there")
            },
            "proposer": {"class_path": "tests.collect.fakes.FakeProposer"},
            "rounds": 2,
        }
        (tmp_path / "run.yaml").write_text(json.dumps(config | settings))
        monkeypatch.setattr(sys, "argv", ["collect", "run", "--config", str(tmp_path / "run.yaml")])
        collect.__main__.main()
        database = sqlite3.connect(tmp_path / name / DATABASE)
        tables = ("prompts", "rounds", "candidates", "renders", "verdicts", "champions", "failures")
        rows = {table: sorted(database.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
        database.close()
        return rows

    return run


WORKERS = {"class_path": "collect.search.RayWorkers", "init_args": {"num_workers": 2}}


def test_a_cluster_that_loses_a_worker_writes_the_same_records_as_one_process(cluster, tmp_path: Path, start) -> None:
    fatal = f"{__name__}.Fatal"
    marker = tmp_path / "died"
    many = start("many", {"class_path": fatal, "init_args": {"marker": str(marker)}}, workers=WORKERS)
    assert marker.exists()
    one = start("one", {"class_path": fatal, "init_args": {"marker": str(marker)}})
    assert len(one["candidates"]) > len(PROMPTS.splitlines()) * 3
    assert {"here a b", "there a b"} <= {text for _, _, _, text, *_ in one["candidates"]}
    assert many == one
    assert {p.name for p in (tmp_path / "many/videos").glob("*.mp4")} == {
        p.name for p in (tmp_path / "one/videos").glob("*.mp4")
    }


def test_a_worker_that_hangs_is_ended_and_its_work_done_by_another(cluster, tmp_path: Path, start) -> None:
    fake = {"class_path": "tests.collect.fakes.FakeGenerator"}
    hanging = [{"class_path": f"{__name__}.Hanging", "init_args": {"marker": str(tmp_path / "once")}}]
    rows = start("hung", fake, hanging, workers=WORKERS, time_limit=2.0, rounds=0)
    ((_, backend, _, error),) = rows["failures"]
    assert (backend, error) == ("verifier fake", "TimeoutError: no answer within 2 seconds")
    assert all(scores is not None for *_, scores, _, _, _ in rows["candidates"])


def test_backends_that_cannot_be_made_and_clusters_too_small_are_named(cluster) -> None:
    backends = {"generator": {"class_path": "tests.collect.fakes.FakeGenerator"}, "verifiers": VERIFIERS}
    with pytest.raises(ValueError, match="3 workers of 1 CPU each need more than the cluster's 2"):
        RayWorkers(3).start(backends, None)
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        RayWorkers(0)
    backends["generator"] = {"class_path": f"{__name__}.Fatal"}  # without its argument
    with pytest.raises(ValueError, match="could not be made on the workers"):
        RayWorkers(1).start(backends, None)
