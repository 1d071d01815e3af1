"""How often a discriminator chooses the better of two rewrites."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import bootstrap
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from collect import tracking
from collect.console import PlainConsole
from collect.evaluation.numbers import NUM_RESAMPLES
from collect.rewriters.discriminator import Discriminator
from data_modules.records import Choice, read_records
from data_modules.templates import CHOICE_LABELS

NUM_BINS = 10  # of the calibration error


@dataclass(frozen=True)
class Report:
    """How well a discriminator chooses. Intervals are 95 %, by bootstrap over prompts.

    Args:
        num_pairs: pairs of rewrites, each asked in both orders.
        accuracy: share of the pairs whose better rewrite has the higher mean probability over both orders.
        interval: of the accuracy.
        majority: share of the pairs that are right for one who knows which kind of rewrite wins more often among these
            very pairs, between every two kinds, and always chooses that. The more kinds there are, the more of it is
            hindsight: with n pairs of two kinds a coin gets about 0.5 + 0.4 / sqrt(n) so.
        gain: accuracy less majority.
        gain_interval: of the gain, paired by prompt.
        foreseen: the same for one who learned it from the training labels, as the discriminator did; a coin where those
            have no winner. ``None`` without training labels.
        foreseen_gain: accuracy less foreseen.
        foreseen_gain_interval: of that gain, paired by prompt.
        single_accuracy: share of the questions answered rightly, each order for itself.
        agreement: share of the pairs for which both orders choose the same rewrite.
        position_bias: mean probability of the label A, which is right in half of the questions, less a half.
        auroc: area under the receiver operating characteristic, of the mean over both orders.
        calibration_error: expected calibration error of the mean over both orders, ten bins.
    """

    num_pairs: int
    accuracy: float
    interval: tuple[float, float]
    majority: float
    gain: float
    gain_interval: tuple[float, float]
    foreseen: float | None
    foreseen_gain: float | None
    foreseen_gain_interval: tuple[float, float] | None
    single_accuracy: float
    agreement: float
    position_bias: float
    auroc: float
    calibration_error: float


def choice(
    choices: Path,
    output: Path,
    discriminator: Discriminator,
    training: Path | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Measure how often a discriminator chooses the better of two rewrites.

    Args:
        choices: ``.jsonl`` of choice records that it was not trained on, both orders of each pair.
        output: file to write the report to, as JSON.
        discriminator: to measure.
        training: ``.jsonl`` that it was trained on, for what could be known from it without any training.
        logger: a W&B run to log to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a pair is there in one order only, or there is only one prompt.
    """
    records = read_records(choices, Choice)
    pairs = paired(records, choices)
    known = None if training is None else paired(read_records(training, Choice), training)
    with tracking.start(logger, "choice") as tracked:
        asked = [record.prompt for pair in pairs for record in pair]
        report = measure(pairs, discriminator.first_probabilities(asked).reshape(-1, 2), known)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"choices": str(choices), **asdict(report)}, indent=2) + "\n")
        numbers = {name: value for name, value in asdict(report).items() if isinstance(value, int | float)}
        tracked.log({f"choice/{name}": value for name, value in numbers.items()})
    show(report)


def paired(records: Sequence[Choice], path: Path) -> list[tuple[Choice, Choice]]:
    """Put the two orders of each pair together, in the order of the file.

    Raises:
        ValueError: if a pair is there in one order only, or there is only one prompt.
    """
    groups: dict[tuple[str, frozenset[str]], list[Choice]] = {}
    for record in records:
        groups.setdefault((record.prompt_id, frozenset(record.scores)), []).append(record)
    for group in groups.values():
        if [list(record.scores) for record in group] != [list(group[0].scores), list(group[0].scores)[::-1]]:
            raise ValueError(
                f"{path} has {len(group)} records of prompt {group[0].prompt_id} with {' and '.join(group[0].scores)}, "
                "which are not one pair in both orders; write it again with collect labels."
            )
    if len({record.prompt_id for record in records}) < 2:
        raise ValueError(f"{path} holds pairs of one prompt; intervals need at least two.")
    return [(group[0], group[1]) for group in groups.values()]


def measure(
    pairs: Sequence[tuple[Choice, Choice]],
    probabilities: NDArray[np.float64],
    training: Sequence[tuple[Choice, Choice]] | None = None,
) -> Report:
    """Compare answers with labels.

    Args:
        pairs: both orders of each.
        probabilities: ``(N, 2)``, of the label A in each order.
        training: other pairs, that the discriminator was trained on.
    """
    first_wins = np.array([shown.label == CHOICE_LABELS[0] for shown, _ in pairs])
    first = (probabilities[:, 0] + 1 - probabilities[:, 1]) / 2
    right = (first > 0.5) == first_wins
    by_kind = right_by_kind(pairs, pairs)
    foreseen = None if training is None else right_by_kind(pairs, training)
    prompts = [shown.prompt_id for shown, _ in pairs]
    # Each candidate of a pair is the first once, so that both outcomes are there whoever wins.
    either = torch.from_numpy(np.concatenate([first, 1 - first]))
    outcome = torch.from_numpy(np.concatenate([first_wins, ~first_wins])).long()
    return Report(
        num_pairs=len(pairs),
        accuracy=float(right.mean()),
        interval=clustered(right, prompts),
        majority=float(by_kind.mean()),
        gain=float(right.mean() - by_kind.mean()),
        gain_interval=clustered(right - by_kind, prompts),
        foreseen=None if foreseen is None else float(foreseen.mean()),
        foreseen_gain=None if foreseen is None else float(right.mean() - foreseen.mean()),
        foreseen_gain_interval=None if foreseen is None else clustered(right - foreseen, prompts),
        single_accuracy=float(((probabilities > 0.5) == np.stack([first_wins, ~first_wins], axis=1)).mean()),
        agreement=float(((probabilities[:, 0] > 0.5) != (probabilities[:, 1] > 0.5)).mean()),
        position_bias=float(probabilities.mean() - 0.5),
        auroc=float(binary_auroc(either, outcome)),
        calibration_error=float(binary_calibration_error(either, outcome, n_bins=NUM_BINS)),
    )


def right_by_kind(
    pairs: Sequence[tuple[Choice, Choice]], known: Sequence[tuple[Choice, Choice]]
) -> NDArray[np.float64]:
    """Whether the kind of rewrite that won more often in the known pairs wins each pair; half where none did."""

    def winner(pair: tuple[Choice, Choice]) -> str:
        return max(pair[0].scores, key=lambda kind: pair[0].scores[kind])

    wins = Counter((frozenset(pair[0].scores), winner(pair)) for pair in known)
    lead = [
        2 * wins[kinds, winner(pair)] - sum(wins[kinds, kind] for kind in kinds)
        for pair in pairs
        for kinds in [frozenset(pair[0].scores)]
    ]
    return (np.sign(lead) + 1) / 2


def clustered(values: NDArray[np.generic], prompts: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean, where the pairs of a prompt are drawn together.

    Every prompt counts as often as it has pairs, as in the mean itself.
    """
    names = list(dict.fromkeys(prompts))
    owner = np.array([names.index(prompt) for prompt in prompts])
    sums, sizes = np.bincount(owner, values.astype(float)), np.bincount(owner)
    found = bootstrap(
        (sums, sizes),
        lambda total, size, axis: total.sum(axis=axis) / size.sum(axis=axis),
        paired=True,
        n_resamples=NUM_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def show(report: Report) -> None:
    """Print the report, in 80 columns."""
    low, high = report.interval
    gain_low, gain_high = report.gain_interval
    table = Table(title=f"{report.num_pairs} held-out pairs of rewrites")
    table.add_column("choosing the better one")
    table.add_column("right", justify="right")
    table.add_row("discriminator, mean of both orders", f"{report.accuracy:.3f} [{low:.2f}, {high:.2f}]")
    table.add_row("always the kind that wins more often here", f"{report.majority:.3f}")
    table.add_row("  the discriminator's gain over it", f"{report.gain:+.3f} [{gain_low:.2f}, {gain_high:.2f}]")
    if report.foreseen is not None and report.foreseen_gain_interval is not None:
        gain_low, gain_high = report.foreseen_gain_interval
        table.add_row("always the kind that won more often in training", f"{report.foreseen:.3f}")
        gain = f"{report.foreseen_gain:+.3f} [{gain_low:.2f}, {gain_high:.2f}]"
        table.add_row("  the discriminator's gain over it", gain)
    table.add_row("a coin", "0.500")
    table.add_row("discriminator, one order at a time", f"{report.single_accuracy:.3f}")
    table.add_row("both orders agree", f"{report.agreement:.3f}")
    table.add_row("position bias", f"{report.position_bias:+.3f}")
    table.add_row("AUROC", f"{report.auroc:.3f}")
    table.add_row("expected calibration error", f"{report.calibration_error:.3f}")
    PlainConsole().print(table)
