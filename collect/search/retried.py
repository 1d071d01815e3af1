"""Rewriters and proposers in a search: one bad prompt or a moment of trouble must cost as little as possible."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from collect.backends.checks import checked_proposals, checked_rewrites
from collect.protocols import Proposer, Rewriter
from collect.search.retries import Retries
from collect.search.store import Store
from data_modules.records import Prompt

logger = logging.getLogger(__name__)


class RetriedRewriter:
    """A rewriter whose answers are checked and whose faults are noted, tried again and left out, see ``Retries``.

    Where it fails twice, the raw prompt is the answer, as where nothing better passed the gate.

    Args:
        rewriter: writes.
        store: keeps a record of its faults.
    """

    def __init__(self, rewriter: Rewriter, store: Store) -> None:
        self.rewriter = rewriter
        name = f"rewriter {type(rewriter).__name__}"
        self._retries: Retries[Prompt, str] = Retries(name, self._rewrite, _id, partial(_note, store))

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt.

        Raises:
            BackendError: if the rewriter fails at three prompts in a row.
        """
        texts, errors = self._retries(list(dict.fromkeys(prompts)))
        if errors:
            logger.warning("%d of %d prompts stay as they are: their rewrites failed.", len(errors), len(prompts))
        return [texts.get(prompt, prompt.prompt) for prompt in prompts]

    def _rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return checked_rewrites(self.rewriter, self.rewriter.rewrite(prompts), len(prompts))


@dataclass(frozen=True)
class _Question:
    """What a proposer is asked about one search."""

    prompt: Prompt
    current: str
    critique: str
    history: tuple[tuple[str, float, str], ...]
    seed: int


class RetriedProposer:
    """A proposer whose answers are checked and whose faults are noted, tried again and left out, see ``Retries``.

    Where it fails twice, there are no proposals in that round.

    Args:
        proposer: proposes.
        store: keeps a record of its faults.
    """

    def __init__(self, proposer: Proposer, store: Store) -> None:
        self.proposer = proposer
        name = f"proposer {type(proposer).__name__}"
        self._retries: Retries[_Question, list[str]] = Retries(
            name, self._propose, lambda question: question.prompt.id, partial(_note, store)
        )

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        """Propose new prompts for each search; see :class:`collect.protocols.Proposer`.

        Raises:
            BackendError: if the proposer fails at three searches in a row.
        """
        questions = [
            _Question(prompt, text, why, tuple(history), seed)
            for prompt, text, why, history in zip(prompts, current, critiques, histories, strict=True)
        ]
        answers, errors = self._retries(questions)
        if errors:
            logger.warning("%d of %d searches have no proposals: making them failed.", len(errors), len(prompts))
        return [answers.get(question, []) for question in questions]

    def _propose(self, questions: Sequence[_Question]) -> list[list[str]]:
        given = self.proposer.propose(
            [question.prompt for question in questions],
            [question.current for question in questions],
            [question.critique for question in questions],
            [question.history for question in questions],
            seed=questions[0].seed,
        )
        return checked_proposals(self.proposer, given, len(questions))


def _id(prompt: Prompt) -> str:
    return prompt.id


def _note(store: Store, backend: str, items: Sequence[object], error: str) -> None:
    logger.warning("%s failed at %d prompts with %s.", backend, len(items), error)
    store.add_failure(backend, [], error)
