"""Stage 1: details from the relation graph, merged into the prompt, put in caption form, and a choice at the end.

After RAPO (https://arxiv.org/abs/2504.11739, section 3; RAPO++, https://arxiv.org/abs/2510.20206, section 3), with one
rule added: nothing that loses what the user asked for goes on to the next step.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from collect.backends.answers import write
from collect.backends.checks import checked_choices, checked_rewrites
from collect.graph.relation_graph import RelationGraph
from collect.graph.retrieval import Retrieval, Retrieved, retrieve
from collect.intent.gate import IntentGate, IntentReport
from collect.protocols import Answer, Discriminator, LanguageModel, Rewriter
from collect.rewriters.check import check
from collect.rewriters.lm import full_request
from data_modules import templates
from data_modules.records import Messages, Prompt

logger = logging.getLogger(__name__)

Outcome = Literal["merged", "unchanged", "undone"]


@dataclass(frozen=True)
class Merge:
    """One detail and the result of merging it.

    Args:
        modifier: the detail.
        text: the language model's answer.
        report: of the gate, on the answer against the raw prompt.
        outcome: ``undone`` where the answer lost intent and the text before it stands; ``unchanged`` where the answer
            is the text before it.
    """

    modifier: Retrieved
    text: str
    report: IntentReport
    outcome: Outcome


@dataclass(frozen=True)
class Candidate:
    """A rewrite that may be chosen.

    Args:
        origin: merged, refactored, direct, or the name of another rewriter.
        text: the rewrite.
        report: of the gate.
        preference: mean probability, by the discriminator, that it is better than each of the others that pass the
            gate; ``None`` where it was not asked, because fewer than two different candidates passed.
    """

    origin: str
    text: str
    report: IntentReport
    preference: float | None = None


@dataclass(frozen=True)
class Rewriting:
    """How a prompt was rewritten.

    Args:
        prompt: what the user asked for.
        retrieved: details found in the graph, most similar to the prompt first.
        merges: the result of each, in the same order.
        candidates: the rewrite by the graph and the refactoring model, the direct one, and those of other rewriters;
            those there are, each text once.
        origin: of the candidate that is the answer; raw where none passed the gate.
        text: the answer.
    """

    prompt: Prompt
    retrieved: tuple[Retrieved, ...]
    merges: tuple[Merge, ...]
    candidates: tuple[Candidate, ...]
    origin: str
    text: str


class RAPORewriter:
    """Rewrites prompts as Stage 1 does: retrieve, merge, refactor, write a second candidate directly, choose.

    Every part may be left out. The paper chooses between two candidates; ``others`` adds more. The gate decides first:
    what it fails is never the answer, and where no candidate passes, the raw prompt is. Of those that pass, the
    discriminator compares every two, and the one that it finds most likely to be better is taken, the first of equals;
    without a discriminator it is the first.

    Args:
        gate: what every merge and every candidate must pass.
        graph: folder of the relation graph; ``None`` merges nothing.
        merger: works one detail after another into the prompt; goes with ``graph``.
        refactorer: puts the merged prompt in the form of the video model's captions (the paper's L_r).
        direct: writes the second candidate by plain instruction.
        others: rewriters by name that write further candidates.
        discriminator: chooses between the candidates (the paper's L_d); needs at least two.
        retrieval: how details are chosen; ``None`` takes the defaults.
        encoder: of the graph, a Sentence Transformers id or directory; by default the packaged all-MiniLM-L6-v2.
        few_shot: show the merger and the direct rewriter examples, as earlier turns; models trained on these templates
            need none.

    Raises:
        FileNotFoundError: if there is no graph.
        ValueError: if a part is given that would not be used.
    """

    def __init__(
        self,
        gate: IntentGate,
        graph: Path | None = None,
        merger: LanguageModel | None = None,
        refactorer: LanguageModel | None = None,
        direct: LanguageModel | None = None,
        others: dict[str, Rewriter] | None = None,
        discriminator: Discriminator | None = None,
        retrieval: Retrieval | None = None,
        encoder: str | None = None,
        few_shot: bool = False,
    ) -> None:
        if (graph is None) != (merger is None):
            raise ValueError(
                "graph and merger go together: what is retrieved from the one is worked in by the other; "
                f"{'graph' if graph is None else 'merger'} is not given"
            )
        sources = [graph is not None or refactorer is not None, direct is not None, *(True for _ in others or {})]
        if not any(sources):
            raise ValueError(
                "there is nothing to rewrite with; give a graph and a merger, a refactorer, direct, or others"
            )
        if discriminator is not None and sum(sources) < 2:
            raise ValueError(
                "a discriminator chooses between at least two candidates; give two of these: a refactorer or a graph "
                "and a merger; direct; one or more others"
            )
        self.gate = gate
        self.graph = None if graph is None else RelationGraph.open(graph, encoder)
        self.merger = merger
        self.refactorer = refactorer
        self.direct = direct
        self.others = others or {}
        self.discriminator = discriminator
        self.retrieval = Retrieval() if retrieval is None else retrieval
        self.few_shot = few_shot
        self.fallbacks = 0  # prompts whose answer is the raw prompt, so far
        self.merges: Counter[Outcome] = Counter()  # so far

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt, or return it as it is where no candidate passes the gate."""
        return [rewriting.text for rewriting in self.explain(prompts)]

    def retrieve(self, prompts: Sequence[Prompt]) -> list[list[Retrieved]]:
        """Find details for each prompt, most similar to it first: the order in which they are merged."""
        if self.graph is None or not prompts:
            return [[] for _ in prompts]
        found = retrieve(self.graph, [prompt.prompt for prompt in prompts], self.retrieval)
        return [sorted(modifiers, key=lambda modifier: -modifier.similarity) for modifiers in found]

    def merge_request(self, text: str, modifier: Retrieved) -> Messages:
        """What the merger is asked in order to work a detail into a text."""
        return templates.merge(text, modifier.phrase, few_shot=self.few_shot)

    def explain(self, prompts: Sequence[Prompt]) -> list[Rewriting]:
        """Rewrite each prompt and tell how: what was retrieved, merged and undone, and what was chosen from."""
        retrieved = self.retrieve(prompts)
        merged, merges = self._merge(prompts, retrieved)
        candidates = self._compare(prompts, self._candidates(prompts, merged))
        rewritings = []
        for prompt, found, done, offered in zip(prompts, retrieved, merges, candidates, strict=True):
            passed = [candidate for candidate in offered if candidate.report.passed]
            best = max(passed, key=lambda candidate: candidate.preference or 0.0, default=None)  # the first of equals
            origin, text = (best.origin, best.text) if best else ("raw", prompt.prompt)
            rewritings.append(Rewriting(prompt, tuple(found), tuple(done), tuple(offered), origin, text))
        fallbacks = sum(rewriting.origin == "raw" for rewriting in rewritings)
        outcomes = Counter(merge.outcome for rewriting in rewritings for merge in rewriting.merges)
        self.fallbacks += fallbacks
        self.merges += outcomes
        if fallbacks or outcomes["undone"]:
            logger.info(
                "%d of %d merges lost intent and were undone; for %d of %d prompts no rewrite passed the intent gate "
                "and the raw prompt stands in",
                outcomes["undone"],
                outcomes.total(),
                fallbacks,
                len(prompts),
            )
        return rewritings

    def _merge(
        self, prompts: Sequence[Prompt], retrieved: Sequence[Sequence[Retrieved]]
    ) -> tuple[list[str], list[list[Merge]]]:
        """Work details in one at a time, the next ones of all prompts in one call, and undo what loses intent."""
        texts = [prompt.prompt for prompt in prompts]
        merges: list[list[Merge]] = [[] for _ in prompts]
        if self.merger is None:
            return texts, merges
        for number in range(max(map(len, retrieved), default=0)):
            rows = [row for row, found in enumerate(retrieved) if number < len(found)]
            modifiers = [retrieved[row][number] for row in rows]
            asked = [self.merge_request(texts[row], modifier) for row, modifier in zip(rows, modifiers, strict=True)]
            raws = [prompts[row].prompt for row in rows]
            answers = write(self.merger, asked, raws, seed=number)
            reports = check(self.gate, raws, answers)
            for row, modifier, answer, report in zip(rows, modifiers, answers, reports, strict=True):
                text = str(answer)
                outcome: Outcome = "undone" if not report.passed else "unchanged" if text == texts[row] else "merged"
                merges[row].append(Merge(modifier, text, report, outcome))
                if outcome == "merged":
                    texts[row] = text
        return texts, merges

    def _candidates(self, prompts: Sequence[Prompt], merged: Sequence[str]) -> list[list[Candidate]]:
        """Offer the merged prompt in caption form or as it is, the direct rewrite and the others'; each text once."""
        raws = [prompt.prompt for prompt in prompts]
        columns: list[tuple[str, Sequence[Answer]]] = []
        if self.refactorer is not None:
            asked = [templates.refactor(text, prompt.task) for prompt, text in zip(prompts, merged, strict=True)]
            columns.append(("refactored", write(self.refactorer, asked, raws, seed=0)))
        elif self.merger is not None:
            columns.append(("merged", [Answer(text) for text in merged]))
        if self.direct is not None:
            requests = [templates.direct(full_request(prompt), few_shot=self.few_shot) for prompt in prompts]
            columns.append(("direct", write(self.direct, requests, raws, seed=0)))
        for name, rewriter in self.others.items():
            texts = checked_rewrites(rewriter, rewriter.rewrite(prompts), len(prompts))
            columns.append((name, [Answer(text) for text in texts]))
        reports = [check(self.gate, raws, answers) for _, answers in columns]
        offered = []
        for row, raw in enumerate(raws):
            own: dict[str, Candidate] = {}
            for (origin, answers), column in zip(columns, reports, strict=True):
                text = str(answers[row])
                if text != raw:
                    own.setdefault(text, Candidate(origin, text, column[row]))
            offered.append(list(own.values()))
        return offered

    def _compare(self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Candidate]]) -> list[list[Candidate]]:
        """Ask the discriminator about every two candidates of a prompt that pass the gate, all prompts in one call."""
        places = [[place for place, one in enumerate(own) if one.report.passed] for own in candidates]
        pairs = [(row, *pair) for row, passed in enumerate(places) for pair in combinations(passed, 2)]
        compared = [list(own) for own in candidates]
        if self.discriminator is None or not pairs:
            return compared
        given = self.discriminator.choose(
            [prompts[row] for row, _, _ in pairs],
            [candidates[row][first].text for row, first, _ in pairs],
            [candidates[row][second].text for row, _, second in pairs],
        )
        chosen = checked_choices(self.discriminator, given, len(pairs))
        won: dict[tuple[int, int], float] = defaultdict(float)
        for (row, first, second), probability in zip(pairs, chosen, strict=True):
            won[row, first] += probability
            won[row, second] += 1 - probability
        for (row, place), sum_won in won.items():
            preference = sum_won / (len(places[row]) - 1)
            compared[row][place] = replace(candidates[row][place], preference=preference)
        return compared
