"""Proposals from the critique of the current prompt."""

from collections.abc import Sequence

from collect.backends.answers import write
from collect.intent.gate import IntentGate
from collect.protocols import LanguageModel
from collect.rewriters.check import check
from data_modules import templates
from data_modules.records import Prompt


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
        raws = [prompt.prompt for prompt in prompts for _ in range(self.num_proposals)]
        answers = write(self.language_model, conversations, raws, seed=seed)
        reports = check(self.gate, raws, answers)
        self.fallbacks += sum(not report.passed for report in reports)
        proposals = []
        for index, (_, text, _, history) in enumerate(states):
            own = slice(index * self.num_proposals, (index + 1) * self.num_proposals)
            tried = {text, *(attempt for attempt, _, _ in history)}
            passed = [str(answer) for answer, report in zip(answers[own], reports[own], strict=True) if report.passed]
            proposals.append([answer for answer in dict.fromkeys(passed) if answer not in tried])
        return proposals

    def _recent(self, current: str, history: Sequence[tuple[str, float, str]]) -> list[tuple[str, float, str]]:
        """Keep the latest attempts but the current one, which is shown for itself."""
        others = [attempt for attempt in history if attempt[0] != current]
        return others[max(0, len(others) - self.num_history) :]
