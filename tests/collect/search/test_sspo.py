"""The search: what competes, what wins, when it stops."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collect.search.sspo import Assessment, Candidate, Proposal, Trajectory, average_ranks, champion, mean, optimise
from data_modules.records import Prompt, content_id
from tests.collect.fakes import FakeAlternative, FakeProposer, FakeRewriter

SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def candidate(text: str, number: int = 0, **scores: float) -> Candidate:
    return Candidate(Proposal(text, "proposal"), number, Assessment(scores, {}, ""))


def prompt(text: str) -> Prompt:
    return Prompt(content_id(text), text)


class RoundsInMemory:
    """Rounds kept in memory."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[str, list[Proposal]]] = {}

    def load_round(self, number: int) -> dict[str, list[Proposal]] | None:
        return self.rounds.get(number)

    def save_round(self, number: int, proposals: dict[str, list[Proposal]]) -> None:
        self.rounds[number] = proposals

    def save_results(self, trajectories: Sequence[Trajectory]) -> None:
        pass


def letters(candidates: Sequence[tuple[Prompt, str]]) -> list[Assessment]:
    """More e is better, up to four."""
    return [Assessment({"e": min(1.0, text.count("e") / 4)}, {}, "more e") for _, text in candidates]


def search(texts: Sequence[str], rounds: int = 5, patience: int = 2, **kwargs) -> list[list[Trajectory]]:
    parts = {"assess": letters, "store": RoundsInMemory(), "rewriter": FakeRewriter(), "proposer": FakeProposer()}
    prompts = [prompt(text) for text in texts]
    return list(optimise(prompts, **(parts | kwargs), rounds=rounds, patience=patience))


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), SCORES, SCORES), min_size=1, max_size=8))
@settings(deadline=None)
def test_no_candidate_ranks_above_the_champion(entries: list[tuple[str, float, float]]) -> None:
    candidates = [candidate(text, a=a, b=b) for text, a, b in entries]
    ranks = average_ranks(candidates)
    best = champion(candidates)
    assert ranks[candidates.index(best)] == ranks.min()  # the raw prompt, a candidate, included
    tied = [c for c, rank in zip(candidates, ranks, strict=True) if rank == ranks.min()]
    assert len(best.text) == min(len(c.text) for c in tied)


@given(st.lists(SCORES, min_size=1, max_size=8))
@settings(deadline=None)
def test_with_one_metric_the_champion_has_the_top_score(scores: list[float]) -> None:
    candidates = [candidate(str(index), a=score) for index, score in enumerate(scores)]
    assert champion(candidates).assessment.scores["a"] == max(scores)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6))
@settings(deadline=None)
def test_a_candidate_worse_on_every_metric_than_all_others_changes_no_champion(
    scores: list[tuple[float, float]],
) -> None:
    candidates = [candidate("x" * (index + 1), a=a, b=b) for index, (a, b) in enumerate(scores)]
    assert champion([*candidates, candidate("w", a=-1.0, b=-1.0)]) == champion(candidates)


CONTEST = st.lists(st.tuples(SCORES, SCORES, SCORES), min_size=1, max_size=7)


def contest(scores: list[tuple[float, ...]]) -> list[Candidate]:
    return [candidate("x" * (1 + 7 * i % 5), a=a, b=b, c=c) for i, (a, b, c) in enumerate(scores)]


@given(CONTEST)
@settings(deadline=None)
def test_average_rank_counts_who_is_better_on_each_metric(scores: list[tuple[float, ...]]) -> None:
    candidates = contest(scores)
    for index, rank in enumerate(average_ranks(candidates)):
        # Rank 1, and 1 more for each rival that is better and a half for each that is as good, averaged over metrics.
        better = [[(s[m] > scores[index][m]) + (s[m] == scores[index][m]) / 2 for s in scores] for m in range(3)]
        assert rank == pytest.approx(0.5 + np.sum(better) / 3)


@given(CONTEST, st.tuples(SCORES, SCORES, SCORES))
@settings(deadline=None)
def test_a_further_candidate_hands_the_win_only_to_one_of_which_it_beats_fewer_metrics(
    scores: list[tuple[float, ...]], added: tuple[float, ...]
) -> None:
    candidates = contest(scores)
    newcomer = candidate("z" * 9, a=added[0], b=added[1], c=added[2])
    before, after = champion(candidates), champion([*candidates, newcomer])

    def beaten(rival: Candidate) -> float:
        own, other = newcomer.assessment.scores, rival.assessment.scores
        return sum((own[m] > other[m]) + (own[m] == other[m]) / 2 for m in own)

    if after is newcomer:
        assert not any(all(s > n for s, n in zip(row, added, strict=True)) for row in scores)
    elif after is not before:
        assert beaten(after) < beaten(before)


def test_candidates_with_other_metrics_are_not_ranked_together() -> None:
    with pytest.raises(ValueError, match="'p' has a and 'q' has a, b"):
        average_ranks([candidate("p", a=1), candidate("q", a=1, b=1)])


class Judges:
    """Scores and failures drawn beforehand, by text."""

    def __init__(self, outcomes: list[tuple[float, float] | None]) -> None:
        self.outcomes = outcomes
        self.known: dict[str, Assessment] = {}

    def __call__(self, candidates: Sequence[tuple[Prompt, str]]) -> list[Assessment]:
        for _, text in candidates:
            drawn = self.outcomes[len(self.known) % len(self.outcomes)]
            lost = Assessment({}, {}, "", error="it broke")
            self.known.setdefault(text, lost if drawn is None else Assessment({"a": drawn[0], "b": drawn[1]}, {}, "w"))
        return [self.known[text] for _, text in candidates]


OUTCOMES = st.lists(st.one_of(st.none(), st.tuples(SCORES, SCORES)), min_size=1, max_size=12)
BUDGET = st.one_of(st.none(), st.integers(1, 9))


@given(OUTCOMES, BUDGET, st.booleans(), st.integers(1, 3), st.integers(0, 6))
@settings(deadline=None)
def test_whatever_the_verdicts_the_search_keeps_its_promises(
    outcomes: list, budget: int | None, backtrack: bool, patience: int, rounds: int
) -> None:
    def run() -> tuple[list[Trajectory], RoundsInMemory]:
        store = RoundsInMemory()
        settings = {"budget": budget, "backtrack": backtrack, "patience": patience, "rounds": rounds}
        return search(["a b", "x c"], assess=Judges(outcomes), store=store, **settings)[-1], store

    (searches, store), (again, recalled) = run(), run()
    assert (searches, store.rounds) == (again, recalled.rounds)  # the same inputs give the same trajectories
    for found in searches:
        tried = [*found.candidates, *found.failures]
        assert len({c.text for c in tried}) == len(tried) <= (budget or len(tried))
        assert {c.round for c in tried} <= set(range(rounds + 1))
        assert all(c.assessment.error is None for c in found.candidates)
        if not found.candidates:  # given up, because the raw prompt could not be judged
            assert found.prompt.prompt in {c.text for c in found.failures}
            continue
        assert found.raw.text == found.prompt.prompt
        ranks = dict(zip([c.text for c in found.candidates], average_ranks(found.candidates), strict=True))
        assert ranks[found.champion.text] == min(ranks.values()) <= ranks[found.raw.text]


def test_from_which_text_is_proposed_is_a_choice() -> None:
    class Worse(FakeProposer):
        def propose(self, prompts, current, critiques, histories, *, seed):
            sources.extend(current)
            return [[f"no{seed}"] for _ in current]

    sources: list[str] = []
    search(["a b"], proposer=Worse(), patience=3, rounds=3)
    assert sources == ["a b here"] * 3
    sources.clear()
    search(["a b"], proposer=Worse(), patience=3, rounds=3, backtrack=False)
    assert sources == ["a b here", "no1", "no2"]


def test_a_text_that_could_not_be_judged_is_not_tried_again_and_not_proposed_from() -> None:
    def fragile(candidates: Sequence[tuple[Prompt, str]]) -> list[Assessment]:
        found = letters(candidates)
        lost = Assessment({}, {}, "", "it broke")
        return [lost if "here" in text else a for (_, text), a in zip(candidates, found, strict=True)]

    class Stubborn(FakeProposer):
        def propose(self, prompts, current, critiques, histories, *, seed):
            sources.extend(current)
            return [["a b here", f"{text} e"] for text in current]

    sources: list[str] = []
    (found,) = search(["a b"], assess=fragile, proposer=Stubborn(), rounds=2)[-1]
    assert sources == ["a b", "a b e"]
    assert [(c.text, c.assessment.error) for c in found.failures] == [("a b here", "it broke")]


def test_the_proposer_is_shown_the_current_prompt_and_everything_tried_before() -> None:
    """The published demo shows its language model neither: its rounds do not build on each other."""
    for budget, backtrack in itertools.product((None, 6), (True, False)):
        shown: list[list[str]] = []

        class Recorder(FakeProposer):
            def propose(self, prompts, current, critiques, histories, *, seed, shown=shown):
                assert current[0] in [text for text, _, _ in histories[0]]
                shown.append([text for text, _, _ in histories[0]])
                return super().propose(prompts, current, critiques, histories, seed=seed)

        (found,) = search(["a b"], proposer=Recorder(), budget=budget, backtrack=backtrack)[-1]
        tried = [c.text for c in found.candidates]
        assert len(shown) == 2
        assert shown == [tried[: len(texts)] for texts in shown]


def test_the_last_prompt_proposed_is_rendered_and_judged() -> None:
    """The published demo writes a prompt in its last round that nobody ever sees a video of."""
    store = RoundsInMemory()
    (found,) = search(["a b"], store=store, rounds=2)[-1]
    written = [proposal.text for proposals in store.rounds.values() for proposal in proposals[found.prompt.id]]
    assert written == [c.text for c in found.candidates]


def test_ties_share_the_mean_rank() -> None:
    # On a: 1, 2.5, 2.5; on b: 3, 2, 1. Means 2, 2.25, 1.75.
    ranks = average_ranks([candidate("p", a=1, b=0), candidate("q", a=0, b=0.5), candidate("r", a=0, b=1)])
    assert ranks.tolist() == [2, 2.25, 1.75]


def test_a_tie_goes_to_the_shorter_text_then_to_the_earlier() -> None:
    assert champion([candidate("long", a=1), candidate("abc", a=1), candidate("xyz", a=1)]).text == "abc"


def test_without_ranked_metrics_the_raw_prompt_wins() -> None:
    assert champion([candidate("raw"), candidate("longer")]).text == "raw"


def test_raw_and_rewritten_prompt_compete_from_the_start() -> None:
    rounds = search(["a box"], rounds=0)
    assert len(rounds) == 1
    assert [(c.text, c.proposal.origin, c.round) for c in rounds[0][0].candidates] == [
        ("a box", "raw", 0),
        ("a box here", "rewriter", 0),
    ]


def test_alternatives_compete_from_the_start_each_text_once() -> None:
    alternatives = {word: FakeAlternative(word) for word in ("see", "watch", "see")} | {"same": FakeRewriter()}
    searches = search(["a box", "x box"], rounds=0, alternatives=alternatives)[0]
    assert [(c.text, c.proposal.origin, c.round) for c in searches[0].candidates] == [
        ("a box", "raw", 0),
        ("a box here", "rewriter", 0),
        ("see a box", "alternative", 0),
        ("watch a box", "alternative", 0),
    ]
    assert searches[0].champion.text == "see a box"
    assert [c.text for c in searches[1].candidates] == ["x box"]


def test_a_budget_that_alternatives_would_exceed_bounds_them() -> None:
    alternatives = {word: FakeAlternative(word) for word in ("see", "watch")}
    assert [c.text for c in search(["a box"], rounds=0, budget=3, alternatives=alternatives)[0][0].candidates] == [
        "a box",
        "a box here",
        "see a box",
    ]


def test_a_rewrite_that_changes_nothing_competes_once() -> None:
    assert [c.text for c in search(["x box"], rounds=0)[0][0].candidates] == ["x box"]


def test_the_best_score_never_falls_and_proposals_build_on_the_best() -> None:
    rounds = optimise([prompt("a b")], letters, RoundsInMemory(), FakeRewriter(), FakeProposer(), 5, 2)
    bests = [searches[0].champion.assessment.score for searches in rounds]
    assert bests == sorted(bests)
    # "a b" has no e, "a b here" two; each round adds one until four are reached and nothing can improve.
    assert bests == [0.5, 0.75, 1.0]


def test_a_search_stops_after_rounds_without_a_new_champion() -> None:
    class Useless:
        def propose(self, prompts, current, critiques, histories, *, seed):
            return [[f"{text} no{seed}"] for text in current]

    assert len(search(["a b"], patience=2, proposer=Useless())) == 1 + 2


def test_finished_searches_are_not_asked_again() -> None:
    asked = []

    class Recorder(FakeProposer):
        def propose(self, prompts, current, critiques, histories, *, seed):
            asked.append([prompt.prompt for prompt in prompts])
            return super().propose(prompts, current, critiques, histories, seed=seed)

    search(["eeee", "a b"], proposer=Recorder())
    assert asked == [["a b"], ["a b"]]


def test_the_proposer_sees_the_best_text_its_critique_and_the_whole_history() -> None:
    seen = []

    class Recorder(FakeProposer):
        def propose(self, prompts, current, critiques, histories, *, seed):
            seen.append((current, critiques, histories, seed))
            return super().propose(prompts, current, critiques, histories, seed=seed)

    search(["a b"], rounds=1, proposer=Recorder())
    history = [("a b", 0.0, "more e"), ("a b here", 0.5, "more e")]
    assert seen == [(["a b here"], ["more e"], [history], 1)]


def test_what_was_tried_is_not_tried_again() -> None:
    class Parrot:
        def propose(self, prompts, current, critiques, histories, *, seed):
            return [[text, "other", "other"] for text in current]

    texts = [c.text for c in search(["a b"], proposer=Parrot())[-1][0].candidates]
    assert texts == ["a b", "a b here", "other"]


def test_what_is_remembered_is_not_asked_for_again() -> None:
    store = RoundsInMemory()
    first = search(["a b", "x c"], store=store)

    class Silent:
        def rewrite(self, prompts):
            pytest.fail("asked again")

        def propose(self, *args, **kwargs):
            pytest.fail("asked again")

    assert search(["a b", "x c"], store=store, rewriter=Silent(), proposer=Silent())[-1] == first[-1]


@given(st.permutations([0.1, 0.2, 0.3, 0.7]))
def test_means_do_not_depend_on_order(values: list[float]) -> None:
    assert mean(values) == mean([0.1, 0.2, 0.3, 0.7])
