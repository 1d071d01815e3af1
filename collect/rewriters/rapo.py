"""Stage 1: details from the relation graph, merged into the prompt, put in caption form, and a choice at the end.

After RAPO (https://arxiv.org/abs/2504.11739, section 3; RAPO++, https://arxiv.org/abs/2510.20206, section 3), with one
rule added: nothing that loses what the user asked for goes on to the next step.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from collect.graph.relation_graph import RelationGraph
from collect.graph.retrieval import Retrieval, Retrieved, retrieve
from collect.intent.gate import IntentGate, IntentReport
from collect.protocols import Discriminator, LanguageModel
from collect.rewriters.lm import wish
from data_modules import templates
from data_modules.records import Messages, Prompt

logger = logging.getLogger(__name__)

Origin = Literal["raw", "merged", "refactored", "direct"]
Outcome = Literal["merged", "unchanged", "undone"]


@dataclass(frozen=True)
class Merge:
    """One detail and what came of working it in.

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
    """A rewrite that may be chosen, with the gate's report on it."""

    origin: Origin
    text: str
    report: IntentReport


@dataclass(frozen=True)
class Rewriting:
    """How a prompt was rewritten.

    Args:
        prompt: what the user asked for.
        retrieved: details found in the graph, most similar to the prompt first.
        merges: what came of each, in the same order.
        candidates: the rewrite by the graph and the refactoring model, and the direct one; those there are.
        preference: probability that the first candidate is better than the second, by the discriminator; ``None``
            where it was not asked, because fewer than two different candidates passed the gate.
        origin: where the answer is from.
        text: the answer.
    """

    prompt: Prompt
    retrieved: tuple[Retrieved, ...]
    merges: tuple[Merge, ...]
    candidates: tuple[Candidate, ...]
    preference: float | None
    origin: Origin
    text: str


class RAPORewriter:
    """Rewrites prompts as Stage 1 does: retrieve, merge, refactor, write a second candidate directly, choose.

    Every part may be left out. The gate decides first: what it fails is never the answer, and where no candidate
    passes, the raw prompt is. Of two that pass, the discriminator takes the one it finds more likely to be better;
    without a discriminator it is the first.

    Args:
        gate: what every merge and every candidate must pass.
        graph: folder of the relation graph; ``None`` merges nothing.
        merger: works one detail after another into the prompt; goes with ``graph``.
        refactorer: puts the merged prompt in the form of the video model's captions (the paper's L_r).
        direct: writes the second candidate by plain instruction.
        discriminator: chooses between the two candidates (the paper's L_d); needs ``direct`` and a first candidate.
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
        if graph is None and refactorer is None and direct is None:
            raise ValueError("there is nothing to rewrite with; give a graph and a merger, a refactorer, or direct")
        if discriminator is not None and (direct is None or (graph is None and refactorer is None)):
            raise ValueError(
                "a discriminator chooses between two candidates; give direct for the one, and a refactorer or a graph "
                "and a merger for the other"
            )
        self.gate = gate
        self.graph = None if graph is None else RelationGraph.open(graph, encoder)
        self.merger = merger
        self.refactorer = refactorer
        self.direct = direct
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
        candidates = self._candidates(prompts, merged)
        preferences = self._choose(prompts, candidates)
        rewritings = []
        for prompt, found, done, offered, preference in zip(
            prompts, retrieved, merges, candidates, preferences, strict=True
        ):
            passed = [candidate for candidate in offered if candidate.report.passed]
            if preference is not None and preference < 0.5:
                passed.reverse()
            origin, text = (passed[0].origin, passed[0].text) if passed else ("raw", prompt.prompt)
            rewritings.append(Rewriting(prompt, tuple(found), tuple(done), offered, preference, origin, text))
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
            answers = self.merger.complete(asked, seed=number)
            reports = self.gate.check([(prompts[row].prompt, text) for row, text in zip(rows, answers, strict=True)])
            for row, modifier, text, report in zip(rows, modifiers, answers, reports, strict=True):
                outcome: Outcome = "undone" if not report.passed else "unchanged" if text == texts[row] else "merged"
                merges[row].append(Merge(modifier, text, report, outcome))
                if outcome == "merged":
                    texts[row] = text
        return texts, merges

    def _candidates(self, prompts: Sequence[Prompt], merged: Sequence[str]) -> list[tuple[Candidate, ...]]:
        """Offer the merged prompt in caption form, or as it is, and the direct rewrite; repeats are offered once."""
        columns: list[tuple[Origin, Sequence[str]]] = []
        if self.refactorer is not None:
            asked = [templates.refactor(text, prompt.task) for prompt, text in zip(prompts, merged, strict=True)]
            columns.append(("refactored", self.refactorer.complete(asked, seed=0)))
        elif self.merger is not None:
            columns.append(("merged", merged))
        if self.direct is not None:
            wishes = [templates.direct(wish(prompt), few_shot=self.few_shot) for prompt in prompts]
            columns.append(("direct", self.direct.complete(wishes, seed=0)))
        raws = [prompt.prompt for prompt in prompts]
        reports = [self.gate.check(list(zip(raws, texts, strict=True))) for _, texts in columns]
        offered = []
        for row, raw in enumerate(raws):
            own: dict[str, Candidate] = {}
            for (origin, texts), column in zip(columns, reports, strict=True):
                if texts[row] != raw:
                    own.setdefault(texts[row], Candidate(origin, texts[row], column[row]))
            offered.append(tuple(own.values()))
        return offered

    def _choose(self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Candidate]]) -> list[float | None]:
        """Ask the discriminator about each two candidates that pass the gate."""
        preferences: list[float | None] = [None] * len(prompts)
        rows = [row for row, own in enumerate(candidates) if len(own) == 2 and all(c.report.passed for c in own)]
        if self.discriminator is not None and rows:
            first, second = ([candidates[row][place].text for row in rows] for place in (0, 1))
            for row, value in zip(
                rows, self.discriminator.choose([prompts[row] for row in rows], first, second), strict=True
            ):
                preferences[row] = value
        return preferences
