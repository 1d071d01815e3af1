"""Stage 2 on several processes or machines: every Ray actor owns a whole set of backends, the driver alone writes.

The loop, its store and its rules for failures stay in the driver; the actors generate, judge and rewrite batches. The
actors write the videos, so on several machines the output folder must be on a file system they share, and the project
and the models must be at the same paths. Needs the extra ``ray``.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import ray
from jsonargparse import ArgumentParser
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from collect.backends.checks import checked_proposals, checked_rewrites, checked_verdicts
from collect.protocols import Generator, Proposer, RenderRequest, Rewriter, Verdict, Verifier
from data_modules.records import Prompt

MAX_LOSSES = 3  # workers one piece of work may cost

TYPES = {
    "generator": Generator,
    "verifiers": list[Verifier],
    "rewriter": Rewriter,
    "alternatives": dict[str, Rewriter],
    "proposer": Proposer,
}

logger = logging.getLogger(__name__)

T = TypeVar("T")


class RayWorkers:
    """Actors of a Ray cluster.

    One that is lost is replaced, and what it was doing is done by another.

    Args:
        num_workers: how many, each with backends of its own.
        num_cpus: cores that each reserves.
        num_gpus: GPUs that each reserves; 0.5 lets two share one. Ray shows each actor only its own, as ``cuda:0``.
        address: of a running cluster, as ``auto`` or ``HOST:PORT``; by default one is started on this machine.
    """

    def __init__(
        self, num_workers: int, num_cpus: float = 1.0, num_gpus: float = 0.0, address: str | None = None
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}.")
        self.num_workers = num_workers
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.address = address
        self._time_limit: float | None = None
        self._actor: Callable[[], Any]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def start(self, backends: dict[str, Any], time_limit: float | None) -> dict[str, Any]:
        """Make the backends in every actor, and here what stands for them.

        Raises:
            ValueError: if the cluster is too small, or the backends cannot be made.
        """
        if not ray.is_initialized():
            ray.init(address=self.address, include_dashboard=False)
        for kind, needed in (("CPU", self.num_cpus), ("GPU", self.num_gpus)):
            there = ray.cluster_resources().get(kind, 0)
            if needed * self.num_workers > there:
                raise ValueError(
                    f"{self.num_workers} workers of {needed:g} {kind} each need more than the cluster's {there:g}; "
                    f"ask for fewer or lower num_{kind.lower()}s."
                )
        self._time_limit = time_limit
        options = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        actor_class: Any = ray.remote(Stack)
        self._actor = partial(actor_class.options(**options).remote, backends, str(Path.cwd()))
        actors = [self._actor() for _ in range(self.num_workers)]
        try:
            facts = ray.get([actor.describe.remote() for actor in actors])[0]
        except RayActorError as error:
            raise ValueError(f"the backends could not be made on the workers: {error}") from error
        for actor in actors:
            self._idle.put(actor)
        return stand_ins(self, facts)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Let a free actor do something; another one if it is lost.

        Raises:
            TimeoutError: if it takes longer than the time limit; the actor is ended and replaced.
            RuntimeError: if the work costs three actors.
        """
        for _ in range(MAX_LOSSES):
            actor = self._idle.get()
            try:
                answer = ray.get(getattr(actor, method).remote(*args, **kwargs), timeout=self._time_limit)
            except RayActorError as error:
                logger.warning("A worker was lost in %s and is replaced: %s", method, error)
                self._replace()
            except GetTimeoutError as error:
                ray.kill(actor)
                self._replace()
                raise TimeoutError(f"no answer within {self._time_limit:g} seconds") from error
            except RayTaskError as error:
                self._idle.put(actor)
                raise error.cause from error
            else:
                self._idle.put(actor)
                return answer
        raise RuntimeError(f"{MAX_LOSSES} workers were lost in {method} of the same work")

    def share(self, method: str, *columns: Sequence[Any], **kwargs: Any) -> list[Any]:
        """Let all actors do a part of something that answers each row of the columns."""
        size = max(1, -(-len(columns[0]) // self.num_workers))
        parts = [[column[begin : begin + size] for column in columns] for begin in range(0, len(columns[0]), size)]
        with ThreadPoolExecutor(self.num_workers) as pool:
            return list(chain.from_iterable(pool.map(lambda part: self.call(method, *part, **kwargs), parts)))

    def _replace(self) -> None:
        """Start an actor; it is given work once its backends are made, and until then the others do it."""

        def bring_up() -> None:
            actor: Any = self._actor()
            try:
                ray.get(actor.describe.remote())
            except RayActorError as error:
                logger.warning("A worker could not be replaced: %s", error)
            self._idle.put(actor)  # a dead one is noticed by who calls it

        threading.Thread(target=bring_up, daemon=True).start()


class Stack:
    """The backends of one actor.

    Args:
        backends: their configuration by the name of the parameter.
        folder: the driver's working directory, which relative paths start from.
    """

    def __init__(self, backends: dict[str, Any], folder: str) -> None:
        os.chdir(folder)
        parser = ArgumentParser(exit_on_error=False)  # Ray takes an exit for a request, not for an error
        for name in backends:
            parser.add_argument(f"--{name}", type=TYPES[name])
        self.made = parser.instantiate(parser.parse_object(backends))

    def describe(self) -> dict[str, Any]:
        """Tell what the driver must know of the backends, by the name of the parameter."""
        facts: dict[str, Any] = {name: type(backend).__name__ for name, backend in self.made.as_dict().items()}
        facts["generator"] = (facts["generator"], self.made.generator.fingerprint, self.made.generator.batch_size)
        facts["verifiers"] = [(type(v).__name__, v.name, v.ranked) for v in self.made.verifiers]
        if "alternatives" in facts:
            facts["alternatives"] = {name: type(made).__name__ for name, made in self.made.alternatives.items()}
        return facts

    def generate(self, requests: Sequence[RenderRequest], batch_size: int) -> None:
        """Write videos."""
        self.made.generator.batch_size = min(batch_size, self.made.generator.batch_size)
        self.made.generator.generate(requests)

    def judge(self, index: int, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge videos with one of the verifiers."""
        verifier = self.made.verifiers[index]
        return checked_verdicts(verifier, verifier.judge(prompts, videos), len(prompts), verifier.ranked)

    def rewrite(self, prompts: Sequence[Prompt], alternative: str | None = None) -> list[str]:
        """Rewrite prompts, with the rewriter or one of the alternatives to it."""
        rewriter = self.made.rewriter if alternative is None else self.made.alternatives[alternative]
        return checked_rewrites(rewriter, rewriter.rewrite(prompts), len(prompts))

    def propose(self, *columns: Sequence[Any], seed: int) -> list[list[str]]:
        """Propose new prompts."""
        proposer = self.made.proposer
        return checked_proposals(proposer, proposer.propose(*columns, seed=seed), len(columns[0]))


class RemoteGenerator:
    """Stands in the driver for the generators of the workers."""

    def __init__(self, workers: RayWorkers, fingerprint: str, batch_size: int) -> None:
        self.workers = workers
        self.fingerprint = fingerprint
        self.batch_size = batch_size

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        """Write one video file per request, on a worker."""
        self.workers.call("generate", list(requests), self.batch_size)


class RemoteVerifier:
    """Stands in the driver for one verifier of each worker."""

    def __init__(self, workers: RayWorkers, index: int, name: str, ranked: bool) -> None:
        self.workers = workers
        self.index = index
        self.name = name
        self.ranked = ranked

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge videos on a worker."""
        return list(self.workers.call("judge", self.index, list(prompts), list(videos)))


class RemoteRewriter:
    """Stands in the driver for the rewriters of the workers, or for one of the alternatives to them."""

    def __init__(self, workers: RayWorkers, alternative: str | None = None) -> None:
        self.workers = workers
        self.alternative = alternative

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite prompts, shared out among the workers."""
        return self.workers.share("rewrite", list(prompts), alternative=self.alternative)


class RemoteProposer:
    """Stands in the driver for the proposers of the workers."""

    def __init__(self, workers: RayWorkers) -> None:
        self.workers = workers

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        """Propose new prompts, shared out among the workers."""
        return self.workers.share("propose", list(prompts), list(current), list(critiques), list(histories), seed=seed)


def stand_ins(workers: RayWorkers, facts: dict[str, Any]) -> dict[str, Any]:
    """Make what stands for the workers' backends, by the name of the parameter."""
    name, *of_generator = facts["generator"]
    found: dict[str, Any] = {"generator": _named(RemoteGenerator, name)(workers, *of_generator)}
    found["verifiers"] = [
        _named(RemoteVerifier, name)(workers, index, *of_verifier)
        for index, (name, *of_verifier) in enumerate(facts["verifiers"])
    ]
    if "rewriter" in facts:
        found["rewriter"] = _named(RemoteRewriter, facts["rewriter"])(workers)
    if "alternatives" in facts:
        found["alternatives"] = {
            name: _named(RemoteRewriter, kind)(workers, name) for name, kind in facts["alternatives"].items()
        }
    if "proposer" in facts:
        found["proposer"] = _named(RemoteProposer, facts["proposer"])(workers)
    return found


def _named(kind: type[T], name: str) -> type[T]:
    """Call a class like the one it stands for: stores and messages name backends by their classes."""
    return type(name, (kind,), {})
