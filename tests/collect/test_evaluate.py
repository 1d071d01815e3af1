"""Evaluation: fair comparisons, honest intervals, stated costs."""

import json
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import WandbLogger

from collect.evaluate import Search, evaluate, interval
from collect.prompts import read_prompts
from collect.studio import seeds_of
from data_modules.records import Result, read_records
from tests.collect.fakes import FakeGate, FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier


class Careless:
    """Forgets what was asked."""

    def rewrite(self, prompts):
        return ["lost" for _ in prompts]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a box\na ball at night\nthe sea\nmilk in tea\n")
    return path


METHODS = {"raw": None, "one pass": FakeRewriter(), "careless": Careless()}


def compare(prompts: Path, output: Path, generator: FakeGenerator | None = None, **changes) -> dict[str, dict]:
    search = Search([FakeVerifier()], FakeProposer(), FakeRewriter(), rounds=2, num_seeds=2)
    settings = {"judge": FakeVerifier("fake"), "gate": FakeGate(), "methods": METHODS, "search": search, "num_seeds": 3}
    evaluate(prompts, output, generator or FakeGenerator(), **(settings | changes))
    summary = json.loads((output / "summary.json").read_text())
    return {method["method"]: method for method in summary["methods"]}


def test_scores_gains_and_costs_are_right(prompts: Path, tmp_path: Path) -> None:
    summary = compare(prompts, tmp_path / "out")
    assert list(summary) == ["raw", "one pass", "careless", "sspo"]
    # The judge counts e, of 12. Raw: 0, 0, 2, 1; "here" adds two to each; "lost" has none.
    assert summary["raw"]["score"] == pytest.approx(3 / 4 / 12)
    assert summary["one pass"]["gain"] == pytest.approx(2 / 12)
    assert summary["one pass"]["gain_interval"] == pytest.approx([2 / 12, 2 / 12])  # the same for each prompt
    assert summary["careless"]["gain"] == pytest.approx(-3 / 4 / 12)
    assert summary["raw"]["gain_interval"] == [0, 0]
    assert [summary[m]["videos_per_prompt"] for m in ("raw", "one pass")] == [1, 1]
    # Raw and stage-1 prompt, then at most two rounds of two proposals; two seeds each; and the answer itself.
    assert 1 + 2 * 4 <= summary["sspo"]["videos_per_prompt"] <= 1 + 2 * 6
    assert summary["careless"]["intent_kept"] == 0
    assert summary["raw"]["unchanged"] == 1
    assert summary["careless"]["mean_words"] == 1


def test_methods_share_seeds_that_no_search_has_seen(prompts: Path, tmp_path: Path) -> None:
    generator = FakeGenerator()
    compare(prompts, tmp_path / "out", generator)
    results = read_records(tmp_path / "out/results.jsonl", Result)
    assert len(results) == 4 * 4 * 3  # methods, prompts, seeds
    for prompt in read_prompts(prompts):
        seeds = {m: [r.seed for r in results if (r.prompt_id, r.method) == (prompt.id, m)] for m in ("raw", "sspo")}
        assert seeds["raw"] == seeds["sspo"]
        assert not set(seeds["raw"]) & set(seeds_of(prompt, 100, "collect"))
    assert all((tmp_path / "out" / result.video).is_file() for result in results)


def test_starting_again_renders_nothing_and_gives_the_same(prompts: Path, tmp_path: Path) -> None:
    first = compare(prompts, tmp_path / "out")
    results = (tmp_path / "out/results.jsonl").read_bytes()
    generator = FakeGenerator()
    assert compare(prompts, tmp_path / "out", generator) == first
    assert generator.made == []
    assert (tmp_path / "out/results.jsonl").read_bytes() == results


def test_methods_may_be_added_without_a_search(prompts: Path, tmp_path: Path) -> None:
    compare(prompts, tmp_path / "out", methods={"raw": None}, search=None)
    generator = FakeGenerator()
    assert list(compare(prompts, tmp_path / "out", generator, search=None)) == ["raw", "one pass", "careless"]
    assert {request.prompt for request in generator.made}.isdisjoint(prompts.read_text().splitlines())


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.3, 1.0, (200, 40))
    held = [low <= 0.3 <= high for low, high in map(interval, samples)]
    assert 0.88 <= np.mean(held) <= 0.99  # 95 %, less a little for 40 values, within three standard errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"one pass": FakeRewriter()}}, "methods must have 'raw' as null, to compare with; got one pass"),
        ({"methods": {"raw": FakeRewriter()}}, "methods must have 'raw' as null"),
        ({"methods": {"raw": None, "sspo": FakeRewriter()}}, "the method name 'sspo' is that of the search"),
        ({"num_seeds": 0}, "num_seeds must be at least 1, got 0"),
        ({"limit": 1}, "holds 1 prompt; intervals need at least two"),
        ({"metric": "beauty"}, "the judge gives no 'beauty'; it gives alignment, clarity"),
    ],
)
def test_settings_that_make_no_sense_are_refused(prompts: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(prompts, tmp_path / "out", **changes)


def test_every_number_of_the_closing_table_is_logged(prompts: Path, tmp_path: Path, read_wandb, latte: Path) -> None:
    from collect.generators import DiffusersGenerator
    from collect.verifiers import FlowVerifier

    generator = DiffusersGenerator(str(latte), 1, 2.0, num_frames=4, height=16, width=16, batch_size=4)
    logger = WandbLogger(project="rapo", offline=True, save_dir=str(tmp_path / "logs"))
    methods = {"raw": None, "one pass": FakeRewriter()}
    settings = {"judge": FlowVerifier(), "metric": "smoothness", "methods": methods, "search": None, "num_seeds": 1}
    summary = compare(prompts, tmp_path / "out", generator, **settings, logger=logger)
    history = read_wandb(tmp_path / "logs").history
    assert history["eval/one pass/score"] == [summary["one pass"]["score"]]
    assert history["eval/one pass/gain_low"] == [summary["one pass"]["gain_interval"][0]]
    assert history["eval/answers/nrows"] == [8]
