"""Evaluation: fair comparisons, honest intervals, stated costs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

import collect.__main__
from collect.evaluation.evaluate import evaluate
from collect.evaluation.numbers import Difference, Estimate, Report, Round, Summary, estimate, ratio
from collect.evaluation.tables import WIDTH, show
from collect.prompts import read_prompts
from collect.protocols import RenderRequest, Verdict
from collect.search.renderer import seeds_of
from collect.search.run import run
from data_modules.records import Prompt, Result, read_records
from tests.collect.fakes import FakeGate, FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier


class Careless:
    """Forgets what was asked."""

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return ["lost" for _ in prompts]


class Louder:
    """Adds another word than the fake rewriter."""

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return [f"{prompt.prompt} everywhere" for prompt in prompts]


class Reader(FakeVerifier):
    """Sees nothing but letters e."""

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        verdicts = super().judge(prompts, videos)
        return [Verdict({"alignment": v.scores["alignment"]}, v.critique) for v in verdicts]


class SeedVerifier(FakeVerifier):
    """Likes odd seeds: whoever chooses among videos of one text can gain."""

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        return [Verdict({"alignment": int(video.read_text().split("|")[1]) % 2}, "") for video in videos]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a box\na ball at night\nthe sea\nmilk in tea\n")
    return path


METHODS = {"raw": None, "one pass": FakeRewriter(), "careless": Careless()}


def compare(prompts: Path, output: Path, generator: FakeGenerator | None = None, **changes) -> dict:
    """Evaluate with fakes, after a search unless ``search`` is among the changes; return the summary."""
    generator = generator or FakeGenerator()
    if "search" not in changes:
        search = output.with_name("search")
        verifiers = changes.setdefault("verifiers", [Reader()])
        run(prompts, search, generator, verifiers, FakeRewriter(), FakeProposer(), rounds=2, num_seeds=2)
        changes["search"] = search
    settings = {"judge": FakeVerifier("fake"), "gate": FakeGate(), "methods": METHODS, "num_seeds": 3}
    evaluate(prompts, output, generator, **(settings | changes))
    return json.loads((output / "summary.json").read_text())


def by_method(summary: dict) -> dict[str, dict]:
    return {method["method"]: method for method in summary["methods"]}


def test_scores_gains_and_costs_are_right(prompts: Path, tmp_path: Path) -> None:
    methods = by_method(compare(prompts, tmp_path / "out"))
    assert list(methods) == ["raw", "one pass", "careless", "sspo", "best_of_n"]
    # The judge counts e, of 12. Raw: 0, 0, 2, 1; "here" adds two to each; "lost" has none.
    assert methods["raw"]["score"]["mean"] == pytest.approx(3 / 4 / 12)
    assert methods["one pass"]["gain"] == pytest.approx({"mean": 2 / 12, "low": 2 / 12, "high": 2 / 12})  # for each
    assert methods["careless"]["gain"]["mean"] == pytest.approx(-3 / 4 / 12)
    assert methods["raw"]["gain"] == {"mean": 0, "low": 0, "high": 0}
    assert methods["raw"]["share"]["mean"] == 0
    assert methods["sspo"]["share"] == {"mean": 1, "low": 1, "high": 1}
    share = methods["one pass"]["gain"]["mean"] / methods["sspo"]["gain"]["mean"]
    assert methods["one pass"]["share"]["mean"] == pytest.approx(share)
    assert [methods[m]["videos_per_prompt"] for m in ("raw", "one pass")] == [1, 1]
    # Raw and stage-1 prompt, then at most two rounds of two proposals; two seeds each; and the answer itself.
    assert 1 + 2 * 4 <= methods["sspo"]["videos_per_prompt"] <= 1 + 2 * 6
    assert methods["careless"]["intent_kept"] == 0
    assert methods["raw"]["unchanged"] == methods["best_of_n"]["unchanged"] == 1
    assert methods["careless"]["mean_words"] == 1


def test_methods_share_seeds_that_no_search_has_seen(prompts: Path, tmp_path: Path) -> None:
    compare(prompts, tmp_path / "out")
    results = read_records(tmp_path / "out/results.jsonl", Result)
    for prompt in read_prompts(prompts):
        seeds = {m: [r.seed for r in results if (r.prompt_id, r.method) == (prompt.id, m)] for m in ("raw", "sspo")}
        assert len(seeds["raw"]) == 3
        assert seeds["raw"] == seeds["sspo"]
        assert not set(seeds["raw"]) & set(seeds_of(prompt, 100, "collect"))
    assert all((tmp_path / "out" / result.video).is_file() for result in results)


def test_videos_shared_with_the_search_are_not_rendered_again(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collect.search.store._playable", lambda _: True)  # the fake writes words
    apart = FakeGenerator()
    own = compare(prompts, tmp_path / "own", apart)
    shared = FakeGenerator()
    search, videos = tmp_path / "shared_search", tmp_path / "videos"
    run(prompts, search, shared, [Reader()], FakeRewriter(), FakeProposer(), rounds=2, num_seeds=2, videos=videos)
    with_search = {"search": search, "verifiers": [Reader()], "videos": videos}
    summary = compare(prompts, tmp_path / "shared", shared, **with_search)
    assert [m["score"] for m in summary["methods"]] == [m["score"] for m in own["methods"]]
    assert len({(r.prompt, r.seed) for r in shared.made}) == len(shared.made) < len(apart.made)
    results = read_records(tmp_path / "shared/results.jsonl", Result)
    assert all((tmp_path / "shared" / result.video).samefile(videos / Path(result.video).name) for result in results)


def test_best_of_n_costs_what_the_search_costs_and_the_judge_does_not_choose(prompts: Path, tmp_path: Path) -> None:
    summary = compare(prompts, tmp_path / "out", judge=SeedVerifier("other"))
    methods = by_method(summary)
    assert methods["best_of_n"]["videos_per_prompt"] == methods["sspo"]["videos_per_prompt"]
    results = [r for r in read_records(tmp_path / "out/results.jsonl", Result) if r.method == "best_of_n"]
    # The search's verifier sees no difference between videos of one text, so the first is chosen, whatever its judge
    # would say; and the judge's score of that one video is the answer's score.
    first = {prompt.id: seeds_of(prompt, 1, "collect")[0] for prompt in read_prompts(prompts)}
    assert {r.prompt_id: r.seed for r in results} == first
    assert methods["best_of_n"]["score"]["mean"] == np.mean([seed % 2 for seed in first.values()])


def test_best_of_n_answers_with_the_video_that_the_searchs_verifiers_prefer(prompts: Path, tmp_path: Path) -> None:
    summary = compare(prompts, tmp_path / "out", verifiers=[SeedVerifier("seeds")], judge=SeedVerifier("other"))
    best = summary["best_of_n"]
    assert [point["videos_per_prompt"] for point in best][:3] == [1, 2, 3]  # then some prompts have had theirs
    scores = [point["score"]["mean"] for point in best]
    assert scores == sorted(scores)  # one more video never hurts where verifiers and judge agree
    odd = [any(seed % 2 for seed in seeds_of(prompt, 2, "collect")) for prompt in read_prompts(prompts)]
    assert scores[1] == np.mean(odd)
    assert by_method(summary)["best_of_n"]["score"]["mean"] == scores[-1]


def test_each_round_is_compared_with_raw_renders_at_its_cost_and_with_stage_1(prompts: Path, tmp_path: Path) -> None:
    summary = compare(prompts, tmp_path / "out", compare=(("sspo", "one pass"), ("careless", "raw")))
    methods, rounds = by_method(summary), summary["rounds"]
    assert [r["number"] for r in rounds] == [0, 1, 2]
    assert rounds[0]["videos_per_prompt"] == 1 + 2 * 2  # raw and stage-1 prompt, two seeds each
    assert [r["videos_per_prompt"] for r in rounds] == sorted(r["videos_per_prompt"] for r in rounds)
    assert rounds[-1]["search"] == methods["sspo"]["score"]
    assert rounds[-1]["best_of_n"] == methods["best_of_n"]["score"]
    for r in rounds:  # the mean of paired differences is the difference of means
        assert r["over_best_of_n"]["mean"] == pytest.approx(r["search"]["mean"] - r["best_of_n"]["mean"])
        assert r["over_stage1"]["mean"] == pytest.approx(r["search"]["mean"] - methods["one pass"]["score"]["mean"])
    first, second = summary["differences"]
    assert (first["method"], first["against"]) == ("sspo", "one pass")
    assert first["score"] == rounds[-1]["over_stage1"]
    assert second["score"] == methods["careless"]["gain"]


def test_starting_again_renders_nothing_and_gives_the_same(prompts: Path, tmp_path: Path) -> None:
    first = compare(prompts, tmp_path / "out")
    results = (tmp_path / "out/results.jsonl").read_bytes()
    assert first["seconds_per_video"] > 0
    generator = FakeGenerator()
    again = compare(prompts, tmp_path / "out", generator)
    assert generator.made == []
    assert (tmp_path / "out/results.jsonl").read_bytes() == results
    for summary in (first, again):
        for method in summary["methods"]:
            assert method.pop("seconds_per_prompt") > 0  # rewriting is done and timed again
    assert again == first


def test_seconds_are_those_of_the_videos_and_of_rewriting(prompts: Path, tmp_path: Path) -> None:
    summary = compare(prompts, tmp_path / "out")
    for method in summary["methods"]:
        rendering = method["videos_per_prompt"] * summary["seconds_per_video"]
        rewriting = method["seconds_per_prompt"] - rendering
        assert (rewriting > 0) == (method["method"] in METHODS)


def test_a_generator_that_is_short_of_memory_gets_smaller_batches(prompts: Path, tmp_path: Path) -> None:
    class Small(FakeGenerator):
        def generate(self, requests: Sequence[RenderRequest]) -> None:
            if self.batch_size > 4:  # it fills every batch up
                raise MemoryError
            super().generate(requests)

    generator = Small(batch_size=8)
    summary = compare(prompts, tmp_path / "out", generator, search=None)
    assert generator.batch_size == 4
    assert summary["num_prompts"] == 4


def test_methods_may_be_added_without_a_search(prompts: Path, tmp_path: Path) -> None:
    compare(prompts, tmp_path / "out", methods={"raw": None}, search=None)
    generator = FakeGenerator()
    summary = compare(prompts, tmp_path / "out", generator, search=None)
    assert list(by_method(summary)) == ["raw", "one pass", "careless"]
    assert summary["rounds"] == summary["best_of_n"] == []
    assert {request.prompt for request in generator.made}.isdisjoint(prompts.read_text().splitlines())


def test_another_judge_or_verifier_of_the_same_name_does_not_go_on_with_the_folder(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(prompts, tmp_path / "search", FakeGenerator(), [FakeVerifier()], FakeRewriter(), rounds=0)

    def use(judge: float, verifier: float | None, error: str = "") -> list[Result]:
        fake = "tests.collect.fakes.Fake"
        arguments = [f"--prompts={prompts}", f"--output={tmp_path / 'out'}", '--methods={"raw": null}']
        arguments += [f"--generator={fake}Generator", f"--judge={fake}Verifier", f"--judge.ceiling={judge}"]
        arguments += ["--gate=collect.intent.IntentGate", "--num_seeds=1"]
        if verifier is not None:
            verifiers = [{"class_path": f"{fake}Verifier", "init_args": {"ceiling": verifier}}]
            arguments += [f"--search={tmp_path / 'search'}", f"--verifiers={json.dumps(verifiers)}"]
        monkeypatch.setattr(sys, "argv", ["collect", "evaluate", *arguments])
        if not error:
            collect.__main__.main()
            return read_records(tmp_path / "out/results.jsonl", Result)
        with pytest.raises(SystemExit):
            collect.__main__.main()
        assert error in capsys.readouterr().err
        return []

    first = use(judge=12, verifier=None)
    use(judge=6, verifier=None, error="backends.judge.ceiling was 12.0 and is now 6.0. Choose another folder")
    use(judge=12, verifier=12)  # a search may be added
    use(judge=12, verifier=6, error="search.verifiers was [")
    again = use(judge=12, verifier=12)
    assert [result for result in again if result.method == "raw"] == first


def test_what_rewriters_answered_earlier_is_compared_again(prompts: Path, tmp_path: Path) -> None:
    earlier = by_method(compare(prompts, tmp_path / "first", search=None))
    changed = METHODS | {"one pass": Louder()}
    summary = compare(prompts, tmp_path / "second", search=None, methods=changed, earlier=tmp_path / "first")
    methods = by_method(summary)
    assert list(methods) == ["raw", "one pass", "careless", "one pass before"]  # careless answers what it did
    assert methods["one pass before"]["score"] == earlier["one pass"]["score"]
    (difference,) = summary["differences"]
    assert (difference["method"], difference["against"]) == ("one pass", "one pass before")
    assert difference["score"]["mean"] == pytest.approx(2 / 12)  # four e for two
    few = tmp_path / "few.txt"
    few.write_text("a box\na new one\n")
    with pytest.raises(ValueError, match="'one pass' did not answer 1 of 2 prompts, for instance 'a new one'"):
        compare(few, tmp_path / "third", search=None, earlier=tmp_path / "first")


def test_prompts_the_judge_fails_on_are_left_out_of_every_mean(prompts: Path, tmp_path: Path) -> None:
    class Blind(FakeVerifier):
        def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
            given = super().judge(prompts, videos)
            lost = ["sea everywhere" in video.read_text() for video in videos]
            return [Verdict.failed("no answer") if gone else v for gone, v in zip(lost, given, strict=True)]

    methods = {"raw": None, "louder": Louder()}
    summary = compare(prompts, tmp_path / "out", judge=Blind(), methods=methods, search=None)
    sea = next(prompt for prompt in read_prompts(prompts) if prompt.prompt == "the sea")
    assert summary["unjudged"] == [sea.id]
    assert summary["num_prompts"] == 3
    assert by_method(summary)["raw"]["score"]["mean"] == pytest.approx(1 / 3 / 12)  # without the sea's two
    scores = {r.prompt: r.scores for r in read_records(tmp_path / "out/results.jsonl", Result) if r.method == "louder"}
    assert scores["the sea"] == {}


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.3, 1.0, (200, 40))
    held = [found.low <= 0.3 <= found.high for found in map(estimate, samples)]
    assert 0.88 <= np.mean(held) <= 0.99  # 95 %, less a little for 40 values, within three standard errors


def test_a_share_of_a_gain_is_as_sure_as_its_pairing() -> None:
    whole = np.random.default_rng(0).normal(1.0, 0.5, 40)
    exact = ratio(0.8 * whole, whole)  # the same share of every prompt's gain: nothing is left to chance
    assert exact is not None
    assert (exact.low, exact.mean, exact.high) == pytest.approx((0.8, 0.8, 0.8))
    shuffled = ratio(0.8 * np.random.default_rng(1).permutation(whole), whole)
    assert shuffled is not None
    assert shuffled.mean == pytest.approx(0.8)
    assert shuffled.low < 0.75 < 0.85 < shuffled.high
    assert ratio(whole, whole - 0.9) is None  # a gain that may be none has no shares


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"one pass": FakeRewriter()}}, "methods must have 'raw' as null, to compare with; got one pass"),
        ({"methods": {"raw": FakeRewriter()}}, "methods must have 'raw' as null"),
        ({"methods": {"raw": None, "sspo": FakeRewriter()}}, "the method name 'sspo' is that of the search"),
        ({"methods": {"raw": None, "best_of_n": FakeRewriter()}}, "the method name 'best_of_n' is that of the search"),
        ({"num_seeds": 0}, "num_seeds must be at least 1, got 0"),
        ({"limit": 1}, "holds 1 prompt; intervals need at least two"),
        ({"limit": 3}, "search was made with other prompts"),
        ({"metric": "beauty"}, "the judge gives no 'beauty'; it gives alignment, clarity"),
        (
            {"compare": (("sspo", "dpo"),)},
            "compare names dpo; the methods are raw, one pass, careless, sspo, best",
        ),
        ({"search": None, "verifiers": [FakeVerifier()]}, "search and verifiers go together"),
    ],
)
def test_settings_that_make_no_sense_are_refused(prompts: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(prompts, tmp_path / "out", **changes)


def test_a_search_that_costs_cannot_be_equal_to_is_refused(prompts: Path, tmp_path: Path) -> None:
    compare(prompts, tmp_path / "out")
    search = tmp_path / "search"
    other = FakeGenerator()
    other.fingerprint = "other"
    with pytest.raises(ValueError, match=r"search was made with other generator \(fake\) than the evaluation has"):
        compare(prompts, tmp_path / "new", other, search=search, verifiers=[FakeVerifier()])
    with pytest.raises(ValueError, match=r"other verifiers \(\['fake'\]\) than the evaluation has \(\['kind'\]\)"):
        compare(prompts, tmp_path / "new", search=search, verifiers=[FakeVerifier("kind")])
    with pytest.raises(FileNotFoundError, match="collect run makes it"):
        compare(prompts, tmp_path / "new", search=tmp_path / "none", verifiers=[FakeVerifier()])


def test_the_closing_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    some = Estimate(-0.1234, -0.2345, 1.0)
    names = ["raw", "direct", "stage1", "sft", "dpo", "dpo before", "sspo", "best_of_n"]
    report = Report(
        metric="alignment",
        num_prompts=100,
        unjudged=[],
        seconds_per_video=0.2,
        methods=[Summary(name, some, some, some, 12.3, 123.4, 1.0, 1.0, 0.1, 24.0, 34.5) for name in names],
        differences=[Difference("dpo", "dpo before", some)],
        rounds=[Round(3, 12.3, some, some, some, some)],
    )
    show(report)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert "…" not in printed
    assert "dpo - dpo before" in printed
    assert "-0.123 [-0.234, +1.000]" in printed


def test_every_number_of_the_closing_tables_is_logged(prompts: Path, tmp_path: Path, read_wandb, latte: Path) -> None:
    from collect.backends.diffusers_generator import DiffusersGenerator
    from collect.verifiers import FlowVerifier

    generator = DiffusersGenerator(str(latte), 1, 2.0, num_frames=4, height=16, width=16, batch_size=4)
    few = tmp_path / "few.txt"
    few.write_text("a box\na ball at night\n")
    run(few, tmp_path / "search", generator, [FlowVerifier()], FakeRewriter(), rounds=0, num_seeds=1)
    logger = WandbLogger(project="rapo", offline=True, save_dir=str(tmp_path / "logs"))
    methods = {"raw": None, "one pass": FakeRewriter()}
    settings = {"judge": FlowVerifier(), "metric": "smoothness", "methods": methods, "num_seeds": 1}
    settings |= {"search": tmp_path / "search", "verifiers": [FlowVerifier()], "compare": (("one pass", "raw"),)}
    summary = compare(few, tmp_path / "out", generator, **settings, logger=logger)
    history = read_wandb(tmp_path / "logs").history
    one_pass = by_method(summary)["one pass"]
    assert history["eval/one pass/score"] == [one_pass["score"]["mean"]]
    assert history["eval/one pass/gain_low"] == [one_pass["gain"]["low"]]
    assert history["eval/one pass/videos_per_prompt"] == [1]
    assert history["eval/methods/nrows"] == [4]
    assert history["eval/differences/nrows"] == [1]
    assert history["eval/rounds/nrows"] == [1]
    assert history["eval/answers/nrows"] == [2 * 4]
    assert history["eval/score_by_videos/count"] == [1]
    with Image.open(tmp_path / "out/score_by_videos.png") as figure:
        assert figure.size == (1200, 750)
        assert np.asarray(figure.convert("L")).std() > 5  # something is drawn
