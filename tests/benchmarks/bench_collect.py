"""What the search costs beside its models, and what keeping them loaded and batching prompts saves.

One search of a few held-out toy prompts with the committed toy models, in three ways that take turns, so that a busy
machine is as hard on each: all prompts at once; one prompt after the other; and one after the other with the models
loaded again for every call, as a published demo of the method does (every judgement loads a vision-language model,
every rewrite a language model). The toy judge has no weights, so the language model is loaded in its place.

``overhead`` is the time in none of generator, verifiers, rewriter and proposer, as a share of the time in them: store,
ranking, bookkeeping. It is given as processor time too, which other programs cannot lengthen; there the encoder of the
video files, a process of its own, does not count for the generator, so the share is an upper bound.
"""

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from collect.backends.diffusers_generator import DiffusersGenerator
from collect.backends.transformers_lm import TransformersLM
from collect.intent.gate import IntentGate
from collect.rewriters.critique import CritiqueRewriter
from collect.rewriters.lm import LMRewriter
from collect.search.renderer import Renderer
from collect.search.sspo import optimise
from collect.search.store import Store
from collect.verifiers import FlowVerifier, ToyWorldVerifier
from data_modules.records import Prompt, content_id
from data_modules.toyworld import user_prompt, worlds

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

LM = "models/toy/lm"
NUM_PROMPTS = 6
NUM_SEEDS = 2
NUM_RUNS = 3
SETTINGS = yaml.safe_load(Path("configs/toy/generator.yaml").read_text())["init_args"]


class Clock:
    """Adds up the wall and processor time of what is called through it."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def timed(self, call: Callable[..., Any], before: Callable[[], object] | None = None) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            try:
                if before is not None:
                    before()
                return call(*args, **kwargs)
            finally:
                self.wall += time.perf_counter() - wall
                self.processor += time.process_time() - processor

        return run


def load() -> None:
    AutoTokenizer.from_pretrained(LM)
    AutoModelForCausalLM.from_pretrained(LM)


def test_search(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = []
    for seed, world in enumerate(worlds("test")[:NUM_PROMPTS]):
        text = user_prompt(world, random.Random(seed))
        prompts.append(Prompt(content_id(text), text))
    gate = IntentGate()
    lm = TransformersLM(LM, batch_size=64, max_new_tokens=64)
    sampling = TransformersLM(LM, batch_size=64, max_new_tokens=64, temperature=1.0)
    # A prompt alone gives batches of few videos; a generator that fills its batches would be unfair to it.
    whole, small = (DiffusersGenerator(**(SETTINGS | {"batch_size": size})) for size in (16, 2 * NUM_SEEDS))

    def search(prompts: Sequence[Prompt], folder: Path, generator: Any, clock: Clock, reload: bool) -> int:
        before = load if reload else None
        verifiers = {"toyworld": ToyWorldVerifier(), "flow": FlowVerifier()}
        rewriter = LMRewriter(lm, gate, template="direct")
        proposer = CritiqueRewriter(sampling, gate, num_proposals=2)
        monkeypatch.setattr(generator, "generate", clock.timed(type(generator).generate.__get__(generator)))
        for name, verifier in verifiers.items():
            slow = before if name == "toyworld" else None
            monkeypatch.setattr(verifier, "judge", clock.timed(verifier.judge, slow))
        monkeypatch.setattr(rewriter, "rewrite", clock.timed(rewriter.rewrite, before))
        monkeypatch.setattr(proposer, "propose", clock.timed(proposer.propose, before))
        with Store(folder, {}) as store:
            store.add_prompts(prompts)
            renderer = Renderer(store, generator, verifiers, NUM_SEEDS, "bench")
            for _ in optimise(prompts, renderer.assess, store, rewriter, proposer, rounds=1, patience=2):
                pass
            return store.num_renders()

    ways = {
        "all prompts at once": (whole, [prompts], False),
        "one prompt at a time": (small, [[prompt] for prompt in prompts], False),
        "one at a time, models loaded at every call": (small, [[prompt] for prompt in prompts], True),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for run in range(NUM_RUNS + 1):  # the first warms up
        for name, (generator, groups, reload) in ways.items():
            clock, videos = Clock(), 0
            wall, processor = time.perf_counter(), time.process_time()
            for index, group in enumerate(groups):
                videos += search(group, tmp_path / f"{run}-{name}-{index}", generator, clock, reload)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            values = {
                "seconds_per_video": wall / videos,
                "processor_seconds_per_video": processor / videos,
                "overhead": wall / clock.wall - 1,
                "processor_overhead": processor / clock.processor - 1,
                "videos": videos,
            }
            if run:
                found[name].append(values)
    for name, runs in found.items():
        medians = {key: round(statistics.median(values[key] for values in runs), 4) for key in runs[0]}
        with capsys.disabled():
            Console().print_json(json.dumps({"search": name, "runs": len(runs), **medians}), indent=None)
        assert len({values["videos"] for values in runs}) == 1  # each run searched the same
