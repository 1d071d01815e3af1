"""Stage 2: search each prompt's best wording by rendering it (RAPO++ section 4.1, https://arxiv.org/abs/2510.20206).

Departures from the paper: the raw prompt competes, further rewriters may enter texts at the start, several proposals
are made a round, each from the best text so far, and the search stops when nothing can improve, nothing has for a
while, or the budget is spent.

A text whose videos could not all be made and judged competes for nothing: it is kept aside with the reason. Where
that text is the raw prompt there is nothing to compare with, and the prompt's search is given up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from collect.protocols import Proposer, Rewriter
from data_modules.records import Prompt

Origin = Literal["raw", "rewriter", "alternative", "proposal"]


@dataclass(frozen=True)
class Proposal:
    """A text that is about to compete for a prompt."""

    text: str
    origin: Origin


@dataclass(frozen=True)
class Assessment:
    """What the verifiers say of one text, over all seeds of its prompt.

    Args:
        scores: metrics in [0, 1] that rank candidates, higher is better.
        observations: metrics that do not.
        critique: what to change, in words.
        error: why the text could not be assessed; then the rest is empty.
    """

    scores: dict[str, float]
    observations: dict[str, float]
    critique: str
    error: str | None = None

    @property
    def score(self) -> float:
        """One number for people and language models; candidates are compared by rank instead."""
        metrics = self.scores or self.observations
        return mean(list(metrics.values())) if metrics else 0.0


@dataclass(frozen=True)
class Candidate:
    """A text that competes for a prompt, and how it did."""

    proposal: Proposal
    round: int
    assessment: Assessment

    @property
    def text(self) -> str:
        """What was sent to the video model."""
        return self.proposal.text


@dataclass
class Trajectory:
    """One prompt's search so far.

    Args:
        prompt: what the user asked for.
        candidates: every text rendered and judged, oldest first; the first is the raw prompt itself. None if the
            search was given up.
        failures: every text that could not be, and why.
        stale: rounds since the champion last changed.
    """

    prompt: Prompt
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Candidate] = field(default_factory=list)
    stale: int = 0

    @property
    def raw(self) -> Candidate:
        """The user's own words."""
        return self.candidates[0]

    @property
    def champion(self) -> Candidate:
        """The best candidate so far."""
        return champion(self.candidates)

    @property
    def latest(self) -> Candidate:
        """The best candidate of the last round that had any."""
        return champion([c for c in self.candidates if c.round == self.candidates[-1].round])

    @property
    def tried(self) -> set[str]:
        """Every text so far, judged or not."""
        return {candidate.text for candidate in (*self.candidates, *self.failures)}

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Let the candidates of one round compete."""
        before = self.champion if self.candidates else None
        self.candidates.extend(c for c in candidates if c.assessment.error is None)
        self.failures.extend(c for c in candidates if c.assessment.error is not None)
        if any(failure.proposal.origin == "raw" for failure in self.failures):
            self.candidates.clear()
            return
        self.stale = 0 if self.champion != before else self.stale + 1

    def finished(self, patience: int, budget: int | None = None) -> bool:
        """Whether a further round is pointless or cannot be paid for."""
        if not self.candidates:
            return bool(self.failures)
        if budget is not None and len(self.tried) >= budget:
            return True
        scores = self.champion.assessment.scores
        return self.stale >= patience or (bool(scores) and min(scores.values()) >= 1.0)


class RoundStore(Protocol):
    """Keeps every round, so that a killed run resumes."""

    def load_round(self, number: int) -> dict[str, list[Proposal]] | None:
        """Read the proposals of a round by prompt id; ``None`` if the round has none yet."""

    def save_round(self, number: int, proposals: dict[str, list[Proposal]]) -> None:
        """Write all proposals of a round at once."""

    def save_results(self, trajectories: Sequence[Trajectory]) -> None:
        """Write assessments and champions of these searches."""


Assess = Callable[[Sequence[tuple[Prompt, str]]], list[Assessment]]


def optimise(
    prompts: Sequence[Prompt],
    assess: Assess,
    store: RoundStore,
    rewriter: Rewriter | None,
    proposer: Proposer | None,
    rounds: int,
    patience: int,
    budget: int | None = None,
    backtrack: bool = True,
    alternatives: Mapping[str, Rewriter] | None = None,
) -> Iterator[list[Trajectory]]:
    """Search the best wording of all prompts at once.

    Args:
        prompts: with distinct ids.
        assess: renders and judges texts, each against its raw prompt.
        store: keeps every round, so that a killed run finds them again.
        rewriter: writes the stage-1 prompt that competes from the start.
        proposer: rewrites the best text so far after each round.
        rounds: of proposals, after the start.
        patience: rounds without a new champion after which a prompt's search stops.
        budget: texts tried per prompt, the raw one included, after which its search stops.
        backtrack: propose from the best text so far, or else from the last one, as the paper draws it.
        alternatives: write further texts that compete from the start.

    Yields:
        All searches, after the start and after each round.
    """
    searches = [Trajectory(prompt) for prompt in prompts]
    for number in range(rounds + 1):
        active = [search for search in searches if not search.finished(patience, budget)]
        if not active:
            return
        proposals = store.load_round(number)
        if proposals is None:
            proposals = (
                propose(active, proposer, number, backtrack) if number else start(active, rewriter, alternatives)
            )
            proposals = within_budget(active, proposals, budget)
            store.save_round(number, proposals)
        entries = [(search, proposal) for search in active for proposal in proposals.get(search.prompt.id, [])]
        assessments = assess([(search.prompt, proposal.text) for search, proposal in entries])
        judged: dict[str, list[Candidate]] = {search.prompt.id: [] for search in active}
        for (search, proposal), assessment in zip(entries, assessments, strict=True):
            judged[search.prompt.id].append(Candidate(proposal, number, assessment))
        for search in active:
            search.add(judged[search.prompt.id])
        store.save_results(active)
        yield searches


def start(
    searches: Sequence[Trajectory], rewriter: Rewriter | None, alternatives: Mapping[str, Rewriter] | None = None
) -> dict[str, list[Proposal]]:
    """Enter each raw prompt, its stage-1 prompt and the alternatives to it; each text once."""
    prompts = [search.prompt for search in searches]
    proposals = {prompt.id: {prompt.prompt: Proposal(prompt.prompt, "raw")} for prompt in prompts}
    writers: list[tuple[Origin, Rewriter]] = [("rewriter", rewriter)] if rewriter else []
    writers += [("alternative", alternative) for alternative in (alternatives or {}).values()]
    for origin, writer in writers:
        for prompt, text in zip(prompts, writer.rewrite(prompts), strict=True):
            proposals[prompt.id].setdefault(text, Proposal(text, origin))
    return {prompt_id: list(texts.values()) for prompt_id, texts in proposals.items()}


def propose(
    searches: Sequence[Trajectory], proposer: Proposer | None, number: int, backtrack: bool
) -> dict[str, list[Proposal]]:
    """Rewrite each search's best text so far, or its last one, from all that was learned."""
    if proposer is None:
        return {}
    sources = [search.champion if backtrack else search.latest for search in searches]
    answers = proposer.propose(
        [search.prompt for search in searches],
        [candidate.text for candidate in sources],
        [candidate.assessment.critique for candidate in sources],
        [[(c.text, c.assessment.score, c.assessment.critique) for c in search.candidates] for search in searches],
        seed=number,
    )
    proposals = {}
    for search, texts in zip(searches, answers, strict=True):
        tried = search.tried
        proposals[search.prompt.id] = [Proposal(text, "proposal") for text in dict.fromkeys(texts) if text not in tried]
    return proposals


def within_budget(
    searches: Sequence[Trajectory], proposals: dict[str, list[Proposal]], budget: int | None
) -> dict[str, list[Proposal]]:
    """Drop the last proposals of searches that have no budget for them."""
    if budget is None:
        return proposals
    left = {search.prompt.id: budget - len(search.tried) for search in searches}
    return {prompt_id: texts[: left[prompt_id]] for prompt_id, texts in proposals.items()}


def average_ranks(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Rank candidates per metric, 1 the best and ties sharing the mean rank; average over metrics."""
    metrics = sorted(candidates[0].assessment.scores)
    for candidate in candidates:
        if sorted(candidate.assessment.scores) != metrics:
            raise ValueError(
                f"candidates of one prompt must have the same metrics; {candidates[0].text!r} has {', '.join(metrics)} "
                f"and {candidate.text!r} has {', '.join(sorted(candidate.assessment.scores))}."
            )
    if not metrics:
        return np.ones(len(candidates))
    scores = np.array([[candidate.assessment.scores[name] for name in metrics] for candidate in candidates])
    return rankdata(-scores, axis=0).mean(axis=1)


def champion(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the lowest average rank; ties go to the shorter text, then to the earlier one.

    No candidate has a lower average rank than the champion, so the raw prompt, a candidate itself, never does.

    Average ranks depend on who competes. A further candidate that another beats on every metric never wins; it can
    hand the win from the old champion only to one of which it beats fewer metrics than of the old champion (a tie
    counts half). So one that is worse on every metric than all others changes nothing.
    """
    ranks = average_ranks(candidates)
    return min(zip(ranks, candidates, strict=True), key=lambda pair: (pair[0], len(pair[1].text)))[1]


def mean(values: Sequence[float]) -> float:
    """Average without regard to order, so that equal sets of scores tie exactly."""
    return fsum(values) / len(values)
