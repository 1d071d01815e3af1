"""The gate on answers of language models, of which some are no text at all."""

from collections.abc import Sequence
from dataclasses import replace

from collect.intent.gate import IntentGate, IntentReport
from collect.protocols import Answer


def check(gate: IntentGate, raws: Sequence[str], answers: Sequence[Answer]) -> list[IntentReport]:
    """Check answers against the raw prompts; an answer that is not whole fails for just that."""
    reports = gate.check([(raw, str(answer)) for raw, answer in zip(raws, answers, strict=True)])
    return [
        report if answer.fault is None else replace(report, problems=(answer.fault,))
        for report, answer in zip(reports, answers, strict=True)
    ]
