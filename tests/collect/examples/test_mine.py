"""Mining: what becomes an example or a pair, and what is said when nothing does."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collect.examples.mine import mine
from collect.examples.preference import PairRule, groups_of, length_ratio, spread, standard_errors
from collect.protocols import Verdict
from collect.search.renderer import seeds_of
from collect.search.sspo import Assessment, Candidate, Proposal, Trajectory
from collect.search.store import Render, Sample, Store
from collect.search.trajectories import read_seed_scores, read_trajectories
from data_modules.records import Evidence, Messages, Preference, Prompt, Rewrite, content_id, read_records
from data_modules.templates import refactor
from tests.collect.fakes import FakeGate

METRIC = "toy/alignment"
Scores = dict[str, list[float]]  # by metric, one per seed


def search(text: str, candidates: dict[str, Scores]) -> Trajectory:
    """A search with its candidates' scores, the raw prompt first."""
    texts = [(text, "raw"), *((other, "proposal") for other in candidates if other != text)]
    judged = []
    for index, (wording, origin) in enumerate(texts):
        means = {metric: sum(values) / len(values) for metric, values in candidates[wording].items()}
        judged.append(Candidate(Proposal(wording, origin), min(index, 1), Assessment(means, {}, "why")))
    return Trajectory(Prompt(content_id(text), text), judged)


def trajectory(text: str, raw: float, rewrite: str | None = None, score: float = 0.0) -> tuple[Trajectory, dict]:
    """A search that rendered the raw prompt and, perhaps, one rewrite of it, and what each video scored."""
    scores = {text: {METRIC: [raw, raw]}} | ({} if rewrite is None else {rewrite: {METRIC: [score, score]}})
    return search(text, scores), scores


def save(folder: Path, searches: list[tuple[Trajectory, dict[str, Scores]]], finished: bool = True) -> Path:
    """Write searches and their videos' verdicts as collect run does."""
    with Store(folder, {"generator": "fake"}) as store:
        trajectories = [search for search, _ in searches]
        store.add_prompts([search.prompt for search in trajectories])
        for number in range(2):
            store.save_round(
                number, {s.prompt.id: [c.proposal for c in s.candidates if c.round == number] for s in trajectories}
            )
        (folder / "videos").mkdir(exist_ok=True)
        for one, scores in searches:
            for text, by_metric in scores.items():
                num_seeds = len(next(iter(by_metric.values())))
                for index, seed in enumerate(seeds_of(one.prompt, num_seeds, "collect")):
                    sample = Sample(one.prompt, text, seed)
                    request = store.request(sample, "fake")
                    request.path.write_text("video")
                    store.add_renders([request], "fake")
                    values = {metric.split("/")[1]: column[index] for metric, column in by_metric.items()}
                    store.add_verdicts([Render(sample, request)], "toy", [Verdict(values, "why")])
        store.save_results(trajectories)
        if finished:
            store.finish()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten improved prompts, four that rewriting spoilt, and some that are no example."""
    return save(
        tmp_path / "trajectories",
        [
            *(trajectory(f"prompt {index}", 0.25, f"better prompt {index}", 0.75) for index in range(10)),
            *(trajectory(f"fine {index}", 1.0, f"no longer fine {index}", 0.5) for index in range(4)),
            trajectory("as good as its rewrite", 1.0, "as good as its raw prompt", 1.0),
            trajectory("never rewritten", 1.0),
            trajectory("bad and nothing better", 0.25),
            trajectory("refused", 0.25, "lost", 1.0),
            trajectory("hardly improved", 0.70, "hardly improved at all", 0.75),
        ],
    )


def mined(output: Path) -> dict[str, str]:
    """Champion by raw prompt, over both splits."""
    records = [r for split in ("train", "val") for r in read_records(output / f"sft/{split}.jsonl", Rewrite)]
    return {record.prompt[-1]["content"].split("Prompt: ")[-1]: record.completion[0]["content"] for record in records}


def test_improved_champions_that_pass_the_gate_are_kept_with_a_few_raw_prompts(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None, min_gain=0.1, raw_share=0.17)
    pairs = mined(tmp_path / "mined")
    left_alone = {raw for raw, champion in pairs.items() if raw == champion}
    assert {raw: c for raw, c in pairs.items() if raw != c} == {f"prompt {i}": f"better prompt {i}" for i in range(10)}
    assert len(left_alone) == 2  # 10 x 0.17 / 0.83, rounded down
    assert all(raw.startswith("fine") for raw in left_alone)


def test_the_template_is_the_one_the_rewriter_is_called_with(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None)
    for record in read_records(tmp_path / "mined/sft/train.jsonl", Rewrite):
        raw = record.prompt[-1]["content"].split("Prompt: ")[-1]
        assert record.prompt == refactor(raw)


def test_no_prompt_is_in_both_splits_and_mining_again_gives_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        mine(folder, tmp_path / name, FakeGate(), METRIC, preference=None, val_share=0.3)
    train, val = (
        {record.prompt[-1]["content"] for record in read_records(tmp_path / f"first/sft/{split}.jsonl", Rewrite)}
        for split in ("train", "val")
    )
    assert train
    assert val
    assert not train & val
    for split in ("train", "val"):
        assert (tmp_path / f"first/sft/{split}.jsonl").read_bytes() == (
            tmp_path / f"second/sft/{split}.jsonl"
        ).read_bytes()


def test_the_funnel_is_written_with_where_it_comes_from(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None, min_gain=0.1)
    written = json.loads((tmp_path / "mined/funnel.json").read_text())
    assert written["funnel"]["sft"] == {
        "prompts": 19,
        "rewritten": 12,
        "gated": 11,
        "improved": 10,
        "left_alone": 1,
        "kept": 11,
        "train": 10,
        "val": 1,
    }
    assert written["funnel"]["preference"] == {}
    assert written["settings"] == {"generator": "fake"}
    assert written["trajectories"] == str(folder)


@pytest.mark.parametrize(
    ("searches", "step"),
    [
        ([trajectory("a", 0.5)], "prompts"),
        ([trajectory("a", 0.5), trajectory("b", 0.5)], "rewritten"),
        ([trajectory("a", 0.5, "lost a", 1.0), trajectory("b", 0.5, "lost b", 1.0)], "gated"),
        ([trajectory("a", 0.9, "aa", 1.0), trajectory("b", 0.9, "bb", 1.0)], "improved"),
    ],
)
def test_too_few_examples_name_the_step_that_took_them(
    tmp_path: Path, searches: list[tuple[Trajectory, dict]], step: str
) -> None:
    folder = save(tmp_path / "trajectories", searches)
    with pytest.raises(ValueError, match=f"The step '{step}' left"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None, min_gain=0.2)
    assert not (tmp_path / "mined").exists()


def test_bad_settings_and_unfinished_searches_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"raw_share must be in \[0, 1\), got 1"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None, raw_share=1.0)
    with pytest.raises(ValueError, match="has no metric 'alignment' that ranks; it has toy/alignment"):
        mine(folder, tmp_path / "mined", FakeGate(), "alignment")
    unfinished = save(tmp_path / "unfinished", [trajectory("a", 0.5)], finished=False)
    with pytest.raises(ValueError, match="is not finished"):
        mine(unfinished, tmp_path / "mined", FakeGate(), METRIC, preference=None)


def test_what_a_record_rests_on_is_beside_it(folder: Path, tmp_path: Path) -> None:
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None)
    records = [r for s in ("train", "val") for r in read_records(tmp_path / f"mined/sft/{s}.jsonl", Rewrite)]
    evidence = {one.id: one for one in read_records(tmp_path / "mined/sft/evidence.jsonl", Evidence)}
    assert evidence.keys() == {record.id for record in records}
    for record in records:
        one = evidence[record.id]
        assert one.texts["champion"] == record.completion[0]["content"]
        assert one.seeds == sorted(seeds_of(Prompt(one.prompt_id, one.texts["raw"]), 2, "collect"))
        assert len(one.scores["champion"][METRIC]) == 2


# Preference pairs.


class FakeLM:
    """Answers every request with the raw prompt, a refused word and a running number."""

    def complete(self, conversations: list[Messages], *, seed: int) -> list[str]:
        texts = [conversation[-1]["content"].split("Prompt: ")[-1] for conversation in conversations]
        return [f"{text} lost {index}" for index, text in enumerate(texts)]


def texts_of(records: list[Preference]) -> list[tuple[str, str, str]]:
    return [
        (r.prompt[-1]["content"].split("Prompt: ")[-1], r.chosen[0]["content"], r.rejected[0]["content"])
        for r in records
    ]


def pairs_in(output: Path) -> list[Preference]:
    return [r for s in ("train", "val") for r in read_records(output / f"preference/{s}.jsonl", Preference)]


def graded(number: int, *scores: tuple[float, ...]) -> tuple[Trajectory, dict[str, Scores]]:
    """A prompt whose rewrites of equal length scored so much in each video, raw first."""
    names = [f"prompt {number}", *(f"text {number} {index}" for index in range(1, len(scores)))]
    by_text = {name: {METRIC: list(values)} for name, values in zip(names, scores, strict=True)}
    return search(names[0], by_text), by_text


def test_the_widest_gaps_of_a_prompt_become_pairs(tmp_path: Path) -> None:
    # Composites 0, 1, 0.8 and 0.1 in every video: no noise, so the deviation of a prompt's candidates decides:
    # mean 0.475, squares .2256 + .2756 + .1056 + .1406 = .7475, over 3 degrees of freedom: 0.499.
    searches = [graded(n, (0, 0, 0, 0), (1, 1, 1, 1), (0.8, 0.8, 0.8, 0.8), (0.1, 0.1, 0.1, 0.1)) for n in range(4)]
    folder = save(tmp_path / "trajectories", searches)
    mine(folder, tmp_path / "mined", FakeGate(), METRIC)
    pairs = texts_of(pairs_in(tmp_path / "mined"))
    # Gaps above 0.499 between texts of three words: 1 over 3 (0.9) and 2 over 3 (0.7); the raw prompt has two words.
    assert sorted(pairs) == sorted(
        (f"prompt {n}", f"text {n} {better}", f"text {n} 3") for n in range(4) for better in (1, 2)
    )
    margins = sorted(pair.margin for pair in pairs_in(tmp_path / "mined"))
    assert margins == pytest.approx([0.7] * 4 + [0.9] * 4)
    funnel = json.loads((tmp_path / "mined/funnel.json").read_text())["funnel"]["preference"]
    # Per prompt six ordered pairs; gaps 1, .8, .1, .2, .9, .7: four are clear, two of those of like length.
    assert funnel == {
        "pairs": 24,
        "gated": 24,
        "floored": 24,
        "dominant": 24,
        "clear": 16,
        "even": 8,
        "video": 8,
        "text": 0,
        "kept": 8,
        "val": 2,
        "train": 6,
    }


def test_spread_and_standard_errors_by_hand() -> None:
    searches = [graded(0, (0, 0), (1, 1)), graded(1, (0.5, 0.5), (0.5, 0.5))]
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), searches)
        groups = groups_of([s for s, _ in searches], read_seed_scores(Path(folder)), [METRIC])
    assert spread(groups) == pytest.approx(np.sqrt((0.25 + 0.25 + 0 + 0) / 2))
    differences = np.array([[1.0, 3.0], [2.0, 2.0]])  # variances 2 and 0
    np.testing.assert_allclose(standard_errors(differences, min_seeds=2), np.sqrt([2 / 2, 0]))
    np.testing.assert_allclose(standard_errors(differences, min_seeds=3), np.sqrt([1 / 2, 1 / 2]))


def test_a_pair_may_be_decided_by_the_task_metric(tmp_path: Path) -> None:
    def tasked(number: int) -> tuple[Trajectory, dict[str, Scores]]:
        scores = {
            f"prompt {number}": {METRIC: [0.2] * 2, "toy/task": [0.2] * 2},
            f"text {number} 1": {METRIC: [0.5] * 2, "toy/task": [1.0] * 2},
            f"text {number} 2": {METRIC: [0.5] * 2, "toy/task": [0.0] * 2},
        }
        return search(f"prompt {number}", scores), scores

    folder = save(tmp_path / "trajectories", [tasked(number) for number in range(3)])
    with pytest.raises(ValueError, match="The step 'even' left 0"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC)
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, task_metric="toy/task")
    assert len(pairs_in(tmp_path / "mined")) == 3


def test_refused_rewrites_stand_against_passed_ones_within_their_share(tmp_path: Path) -> None:
    searches = [graded(n, (0, 0), (1, 1), (0, 0)) for n in range(7)]
    folder = save(tmp_path / "trajectories", searches)
    rule = PairRule(max_length_ratio=1.4, num_rewrites=2)
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=rule, rewriter=FakeLM())
    pairs = pairs_in(tmp_path / "mined")
    refused = [pair for pair in pairs if pair.kind == "text"]
    assert Counter(pair.kind for pair in pairs) == {"video": 7, "text": 3}  # 3 of 10 are 30 %
    for prompt, chosen, rejected in texts_of(refused):
        assert chosen == prompt.replace("prompt", "text") + " 1"
        assert "lost" in rejected
    assert {pair.margin for pair in refused} == {None}
    evidence = {one.id: one for one in read_records(tmp_path / "mined/preference/evidence.jsonl", Evidence)}
    for pair in refused:
        assert evidence[pair.id].origins == {"chosen": "proposal", "rejected": "sampled"}
        assert evidence[pair.id].scores["rejected"] == {METRIC: []}


def test_a_candidate_that_the_gate_refuses_now_is_never_chosen_and_may_be_rejected(tmp_path: Path) -> None:
    def with_lost(number: int) -> tuple[Trajectory, dict[str, Scores]]:
        scores = {
            f"prompt {number}": {METRIC: [0.5, 0.5]},
            f"text {number} lost": {METRIC: [1.0, 1.0]},
            f"text {number} b": {METRIC: [0.9, 0.9]},
            f"text {number} c": {METRIC: [0.0, 0.0]},
        }
        return search(f"prompt {number}", scores), scores

    searches = [with_lost(number) for number in range(8)]
    kept = [graded(number, (0, 0), (1, 1)) for number in (20, 21)]  # or no champion passes
    folder = save(tmp_path / "trajectories", [*searches, *kept])
    mine(folder, tmp_path / "mined", FakeGate(), METRIC)
    pairs = pairs_in(tmp_path / "mined")
    assert not any("lost" in chosen for _, chosen, _ in texts_of(pairs))
    assert {p.kind for p in pairs if "lost" in p.rejected[0]["content"]} == {"text"}


@pytest.mark.parametrize(
    ("searches", "rule", "step"),
    [
        ([graded(n, (0.5, 0.5), (0.5, 0.5)) for n in (1, 2)], PairRule(), "pairs"),
        ([graded(n, (0.5, 0.5), (0.9, 0.9)) for n in (1, 2)], PairRule(floors={METRIC: 0.95}), "floored"),
        ([graded(n, (0, 1), (1, 0.2)) for n in (1, 2)], PairRule(), "clear"),
        ([graded(n, (0, 0), (1, 1)) for n in (1, 2)], PairRule(), "even"),
    ],
)
def test_too_few_pairs_name_the_step_that_took_them(
    tmp_path: Path, searches: list[tuple[Trajectory, dict]], rule: PairRule, step: str
) -> None:
    champions = [graded(number, (0, 0), (0.5, 0.5)) for number in (20, 21)] if step == "pairs" else []
    folder = save(tmp_path / "trajectories", [*searches, *champions])
    floor = PairRule(min_pairs=3) if step == "pairs" else rule
    with pytest.raises(ValueError, match=f"leaves too few preference pairs: .* The step '{step}' left"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=floor)
    assert not (tmp_path / "mined").exists()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (PairRule(tolerance=-1), "preference.tolerance must be at least 0, got -1"),
        (PairRule(max_length_ratio=0.5), "preference.max_length_ratio must be at least 1, got 0.5"),
        (PairRule(text_share=1), r"preference.text_share must be in \[0, 1\), got 1"),
        (PairRule(floors={"toy/beauty": 0.5}), "preference.floors has 'toy/beauty'; the metrics that rank are toy/al"),
    ],
)
def test_rules_that_make_no_sense_are_refused(folder: Path, tmp_path: Path, rule: PairRule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=rule)


def test_one_seed_is_no_ground_for_a_pair(tmp_path: Path) -> None:
    folder = save(tmp_path / "trajectories", [graded(n, (0,), (1,)) for n in range(4)])
    with pytest.raises(ValueError, match="has 1 seeds per prompt; preference pairs need"):
        mine(folder, tmp_path / "mined", FakeGate(), METRIC)
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=None)


def test_a_text_with_a_failed_video_is_left_out(tmp_path: Path) -> None:
    searches = [graded(n, (0, 0), (1, 1), (0, 0), (0.9, 0.9)) for n in range(4)]
    folder = save(tmp_path / "trajectories", searches)
    scores = read_seed_scores(folder)
    scores[(searches[0][0].prompt.id, "text 0 1")].popitem()
    (first, *_) = groups_of([s for s, _ in searches], scores, [METRIC])
    assert [candidate.text for candidate in first.scored] == ["prompt 0", "text 0 2", "text 0 3"]


share = st.integers(0, 4).map(lambda quarter: quarter / 4)


@st.composite
def stores(draw: st.DrawFn) -> list[tuple[Trajectory, dict[str, Scores]]]:
    """Searches of some prompts, two metrics and three seeds; texts differ in length and some lose the intent."""
    found = []
    for number in range(draw(st.integers(4, 7))):
        texts = [f"prompt {number}"]
        for index in range(draw(st.integers(1, 4))):
            words = " word" * draw(st.integers(0, 3)) + " lost" * draw(st.integers(0, 1))
            texts.append(f"text {number} {index}{words}")
        values = st.lists(share, min_size=3, max_size=3)
        scores = {text: {METRIC: draw(values), "toy/clarity": draw(values)} for text in texts}
        found.append((search(texts[0], scores), scores))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(stores(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 1.25, 2.0]))
def test_every_pair_keeps_the_rule(
    searches: list[tuple[Trajectory, dict[str, Scores]]], deviations: float, ratio: float
) -> None:
    rule = PairRule(min_gap_deviations=deviations, max_length_ratio=ratio, floors={METRIC: 0.25})
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = save(Path(temporary) / "trajectories", searches), Path(temporary) / "mined"
        refusal = ""
        try:
            mine(folder, output, FakeGate(), METRIC, preference=rule, rewriter=FakeLM())
        except ValueError as error:
            refusal = str(error)
        assert output.exists() != ("leaves" in refusal)
        if refusal:
            return
        pairs = pairs_in(output)
        rewrites = {s: read_records(output / f"sft/{s}.jsonl", Rewrite) for s in ("train", "val")}
        prompts = {
            split: {r.prompt[-1]["content"] for r in read_records(output / f"preference/{split}.jsonl", Preference)}
            | {r.prompt[-1]["content"] for r in rewrites[split]}
            for split in ("train", "val")
        }
        groups = groups_of([s for s, _ in searches], read_seed_scores(folder), ["toy/alignment", "toy/clarity"])
        assert len(read_trajectories(folder)[0]) == len(searches)
    assert not prompts["train"] & prompts["val"]
    scores = {s.prompt.prompt: {text: np.array(list(v.values())) for text, v in by.items()} for s, by in searches}
    every = [
        better - worse
        for texts in scores.values()
        for better in texts.values()
        for worse in texts.values()
        if better.mean() > worse.mean()
    ]
    tolerance = np.sqrt(np.mean([d.var(axis=1, ddof=1) for d in every], axis=0) / 3)  # one standard error, by metric
    gap_error = np.sqrt(np.mean([d.mean(axis=0).var(ddof=1) for d in every]) / 3)
    kinds = Counter(pair.kind for pair in pairs)
    assert kinds["text"] <= 0.3 * len(pairs)
    for pair, (prompt, chosen, rejected) in zip(pairs, texts_of(pairs), strict=True):
        assert "lost" not in chosen
        assert length_ratio(chosen, rejected) <= ratio
        assert scores[prompt][chosen].mean(axis=1)[0] >= 0.25
        if pair.kind == "text":
            assert "lost" in rejected
            continue
        difference = scores[prompt][chosen] - scores[prompt][rejected]
        assert difference.mean() == pytest.approx(pair.margin)
        assert difference.mean() >= max(deviations * spread(groups), 2 * gap_error) - 1e-12
        assert (difference.mean(axis=1) >= -tolerance - 1e-12).all()
        assert difference.mean(axis=1)[0] > 0
    assert max(Counter(prompt for prompt, _, _ in texts_of(pairs)).values()) <= 2


def test_what_doubles_a_word_is_never_learned_from_unless_the_prompt_does(tmp_path: Path) -> None:
    def judged(prompt: str, better: str, best: str) -> tuple[Trajectory, dict[str, Scores]]:
        scores = {prompt: {METRIC: [0.2] * 2}, better: {METRIC: [0.6] * 2}, best: {METRIC: [1.0] * 2}}
        return search(prompt, scores), scores

    towns = [judged(f"in Walla Walla {n}", f"near Walla Walla {n}", f"over Walla Walla {n}") for n in range(3)]
    boxes = [judged(f"the box falls {n}", f"one box falls {n}", f"One box Box falls {n}") for n in range(3)]
    folder = save(tmp_path / "trajectories", [*towns, *boxes])
    rule = PairRule(min_gap_deviations=0.5, max_pairs=9)
    mine(folder, tmp_path / "mined", FakeGate(), METRIC, preference=rule, raw_share=0.0)
    assert mined(tmp_path / "mined") == {f"in Walla Walla {n}": f"over Walla Walla {n}" for n in range(3)}
    chosen = {text for _, text, _ in texts_of(pairs_in(tmp_path / "mined"))}
    assert chosen == {f"{word} Walla Walla {n}" for word in ("near", "over") for n in range(3)} | {
        f"one box falls {n}" for n in range(3)
    }
