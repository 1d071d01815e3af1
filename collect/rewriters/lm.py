"""Rewriting in one pass of a language model."""

import logging
from collections.abc import Sequence
from typing import Literal

from collect.backends.answers import write
from collect.intent.gate import IntentGate
from collect.protocols import LanguageModel
from collect.rewriters.check import check
from data_modules import templates
from data_modules.records import Messages, Prompt

logger = logging.getLogger(__name__)


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
        rewrites = write(self.language_model, [self._ask(prompt) for prompt in prompts], raws, seed=self.seed)
        reports = check(self.gate, raws, rewrites)
        failed = sum(not report.passed for report in reports)
        if failed:
            logger.info(
                "%d of %d rewrites failed the intent gate; their raw prompts stand in",
                failed,
                len(prompts),
            )
        self.fallbacks += failed
        return [
            str(rewrite) if report.passed else raw for raw, rewrite, report in zip(raws, rewrites, reports, strict=True)
        ]

    def _ask(self, prompt: Prompt) -> Messages:
        if self.template == "refactor":
            return templates.refactor(prompt.prompt, prompt.task)
        return templates.direct(full_request(prompt))


def full_request(prompt: Prompt) -> str:
    """What a user asks for in one text: the prompt, and the rule the video must obey."""
    return prompt.prompt if prompt.task is None else f"{prompt.prompt} {prompt.task}"
