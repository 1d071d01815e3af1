"""The search: what competes, what wins, when it stops."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collect.sspo import Assessment, Candidate, Draft, Trajectory, average_ranks, champion, mean, optimise
from data_modules.records import Prompt, content_id
from tests.collect.fakes import FakeProposer, FakeRewriter

SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def candidate(text: str, number: int = 0, **scores: float) -> Candidate:
    return Candidate(Draft(text, "proposal"), number, Assessment(scores, {}, ""))


def prompt(text: str) -> Prompt:
    return Prompt(content_id(text), text)


class Recollection:
    """A memory in memory."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[str, list[Draft]]] = {}

    def recall(self, number: int) -> dict[str, list[Draft]] | None:
        return self.rounds.get(number)

    def remember(self, number: int, drafts: dict[str, list[Draft]]) -> None:
        self.rounds[number] = drafts

    def record(self, trajectories: Sequence[Trajectory]) -> None:
        pass


def letters(candidates: Sequence[tuple[Prompt, str]]) -> list[Assessment]:
    """More e is better, up to four."""
    return [Assessment({"e": min(1.0, text.count("e") / 4)}, {}, "more e") for _, text in candidates]


def search(texts: Sequence[str], rounds: int = 5, patience: int = 2, **kwargs) -> list[list[Trajectory]]:
    parts = {"assess": letters, "memory": Recollection(), "rewriter": FakeRewriter(), "proposer": FakeProposer()}
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
    assert [(c.text, c.draft.origin, c.round) for c in rounds[0][0].candidates] == [
        ("a box", "raw", 0),
        ("a box here", "rewriter", 0),
    ]


def test_a_rewrite_that_changes_nothing_competes_once() -> None:
    assert [c.text for c in search(["x box"], rounds=0)[0][0].candidates] == ["x box"]


def test_the_best_score_never_falls_and_proposals_build_on_the_best() -> None:
    rounds = optimise([prompt("a b")], letters, Recollection(), FakeRewriter(), FakeProposer(), 5, 2)
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
    memory = Recollection()
    first = search(["a b", "x c"], memory=memory)

    class Silent:
        def rewrite(self, prompts):
            pytest.fail("asked again")

        def propose(self, *args, **kwargs):
            pytest.fail("asked again")

    assert search(["a b", "x c"], memory=memory, rewriter=Silent(), proposer=Silent())[-1] == first[-1]


@given(st.permutations([0.1, 0.2, 0.3, 0.7]))
def test_means_do_not_depend_on_order(values: list[float]) -> None:
    assert mean(values) == mean([0.1, 0.2, 0.3, 0.7])
