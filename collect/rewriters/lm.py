"""Raw prompt to better prompt: in one pass, or from the critique of a video. Every answer passes the intent gate."""

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from collect.backends.video import write_video
from collect.intent.gate import IntentGate
from collect.protocols import LanguageModel, Proposer, Rewriter, Verifier
from data_modules import templates
from data_modules.records import Messages, Prompt

logger = logging.getLogger(__name__)

# Frames, height, width, RGB: 2 s at 8 frames a second, as long and large as any verifier needs.
EMPTY_VIDEO = (16, 256, 256, 3)


class LMRewriter:
    """Rewrites prompts with one call of a language model each; the raw prompt stands in for what fails the gate.

    Args:
        language_model: answers the template.
        gate: what a rewrite must pass to be used.
        template: ``refactor`` asks a trained rewriter for caption form; ``direct`` asks any model for a better prompt.
        seed: of what is sampled; a model that does not sample answers the same with any.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        gate: IntentGate,
        template: Literal["refactor", "direct"] = "refactor",
        seed: int = 0,
    ) -> None:
        self.language_model = language_model
        self.gate = gate
        self.template = template
        self.seed = seed
        self.fallbacks = 0  # rewrites that failed the gate so far

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt, or return it as it is where the rewrite fails the gate."""
        raws = [prompt.prompt for prompt in prompts]
        rewrites = self.language_model.complete([self._ask(prompt) for prompt in prompts], seed=self.seed)
        reports = self.gate.check(list(zip(raws, rewrites, strict=True)))
        failed = sum(not report.passed for report in reports)
        if failed:
            logger.info(
                "%d of %d rewrites failed the intent gate; their raw prompts stand in",
                failed,
                len(prompts),
            )
        self.fallbacks += failed
        return [rewrite if report.passed else raw for raw, rewrite, report in zip(raws, rewrites, reports, strict=True)]

    def _ask(self, prompt: Prompt) -> Messages:
        if self.template == "refactor":
            return templates.refactor(prompt.prompt, prompt.task)
        return templates.direct(wish(prompt))


def wish(prompt: Prompt) -> str:
    """What a user asks for in one text: the prompt, and the rule the video must obey."""
    return prompt.prompt if prompt.task is None else f"{prompt.prompt} {prompt.task}"


class CritiqueRewriter:
    """Proposes new prompts from the critique of the current one, with a bounded memory of earlier attempts.

    Args:
        language_model: answers the template; it must sample, or all proposals for a prompt are the same.
        gate: what a proposal must pass.
        num_proposals: new prompts asked for per prompt.
        num_history: latest attempts shown to the language model; 0 shows none.

    Raises:
        ValueError: if ``num_proposals`` is below 1 or ``num_history`` below 0.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        gate: IntentGate,
        num_proposals: int = 1,
        num_history: int = 1,
    ) -> None:
        if num_proposals < 1:
            raise ValueError(f"num_proposals must be at least 1, got {num_proposals}")
        if num_history < 0:
            raise ValueError(f"num_history must be at least 0, got {num_history}")
        self.language_model = language_model
        self.gate = gate
        self.num_proposals = num_proposals
        self.num_history = num_history
        self.fallbacks = 0  # proposals that failed the gate so far

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        """Propose up to ``num_proposals`` distinct prompts each that pass the gate and were not tried before.

        Args:
            prompts: what the users asked for; the gate compares with these.
            current: the prompts whose videos were criticised.
            critiques: what those videos get wrong.
            histories: every earlier attempt per prompt as (prompt, score, critique), oldest first.
            seed: with the texts, decides what is sampled.
        """
        states = list(zip(prompts, current, critiques, histories, strict=True))
        conversations = [
            templates.critique(prompt, text, why, self._recent(text, history))
            for prompt, text, why, history in states
            for _ in range(self.num_proposals)
        ]
        answers = self.language_model.complete(conversations, seed=seed)
        raws = [prompt.prompt for prompt in prompts for _ in range(self.num_proposals)]
        reports = self.gate.check(list(zip(raws, answers, strict=True)))
        self.fallbacks += sum(not report.passed for report in reports)
        proposals = []
        for index, (_, text, _, history) in enumerate(states):
            own = slice(index * self.num_proposals, (index + 1) * self.num_proposals)
            tried = {text, *(attempt for attempt, _, _ in history)}
            passed = [answer for answer, report in zip(answers[own], reports[own], strict=True) if report.passed]
            proposals.append([answer for answer in dict.fromkeys(passed) if answer not in tried])
        return proposals

    def _recent(self, current: str, history: Sequence[tuple[str, float, str]]) -> list[tuple[str, float, str]]:
        """Keep the latest attempts but the current one, which is shown for itself."""
        others = [attempt for attempt in history if attempt[0] != current]
        return others[max(0, len(others) - self.num_history) :]


class RewordingRewriter:
    """Says another rewriter's answer in other words, for a choice that has something to choose from.

    Rewriters keep to the user's words, while what a video model draws depends on the words. Nothing is rendered here:
    the proposer is told what a verifier says of a video in which nothing can be seen, which is to reword all that was
    asked for.

    Where no proposal is left, or there is no critique because the verifier failed or had no words, the other rewriter's
    answer stands.

    Args:
        rewriter: whose answers are reworded, the raw prompts among them where it gave those back.
        proposer: rewords and sees to it that every proposal passes the gate; its first one is taken.
        verifier: says what of the prompt an empty video does not show.
        seed: of what the proposer samples; others give other words.
    """

    def __init__(self, rewriter: Rewriter, proposer: Proposer, verifier: Verifier, seed: int = 0) -> None:
        self.rewriter = rewriter
        self.proposer = proposer
        self.verifier = verifier
        self.seed = seed
        self.outcomes: Counter[Literal["reworded", "refused", "uncriticised"]] = Counter()  # so far

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt, in other words where there are any."""
        texts = self.rewriter.rewrite(prompts)
        critiques = self._criticise_nothing(prompts)
        rows = [row for row, critique in enumerate(critiques) if critique]
        proposals = self.proposer.propose(
            [prompts[row] for row in rows],
            [texts[row] for row in rows],
            [critiques[row] for row in rows],
            [[]] * len(rows),
            seed=self.seed,
        )
        refused = 0
        for row, own in zip(rows, proposals, strict=True):
            texts[row] = own[0] if own else texts[row]
            refused += not own
        left_out = len(prompts) - len(rows)
        self.outcomes.update({"reworded": len(rows) - refused, "refused": refused, "uncriticised": left_out})
        if refused or left_out:
            logger.info(
                "%d of %d rewrites are not reworded: for %d no proposal passed the intent gate, for %d there is no "
                "critique",
                refused + left_out,
                len(prompts),
                refused,
                left_out,
            )
        return texts

    def _criticise_nothing(self, prompts: Sequence[Prompt]) -> list[str]:
        """What the verifier misses in a black video, per prompt; nothing where it could not judge."""
        if not prompts:
            return []
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder) / "empty.mp4"
            write_video(empty, np.zeros(EMPTY_VIDEO, np.uint8))
            verdicts = self.verifier.judge(prompts, [empty] * len(prompts))
        for verdict in verdicts:
            if verdict.error is not None:
                logger.warning("An empty video could not be judged: %s", verdict.error)
        return [verdict.critique for verdict in verdicts]
