"""Stage 1's choices: which of two rewrites the video model draws better, found by rendering both.

What RAPO++ (section 3.3, https://arxiv.org/abs/2510.20206) leaves open: a text is judged over several seeds, which all
texts of its prompt share; near-ties teach nothing and are left out; and every pair is kept in both orders, so that
neither label nor position says anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from rich.table import Table

from collect import tracking
from collect.console import PlainConsole
from collect.intent.gate import IntentGate
from collect.prompts import read_prompts
from collect.protocols import Generator, Rewriter, Verifier
from collect.search.renderer import Renderer
from collect.search.retried import RetriedRewriter
from collect.search.run import by_name
from collect.search.store import Store
from data_modules.records import Choice, Prompt, content_id, write_records
from data_modules.schema import write_json
from data_modules.templates import CHOICE_LABELS, choose

PURPOSE = "labels"  # of the seeds: search and evaluation draw others
NUM_PAIRS_LOGGED = 100
FUNNEL = ("pairs", "refused", "alike", "unjudged", "near_ties", "kept")


@dataclass(frozen=True)
class Candidate:
    """What one rewriter made of a prompt."""

    kind: str
    text: str


@dataclass
class Pair:
    """Two rewrites of a prompt.

    Args:
        prompt: what the user asked for.
        split: train, val or test.
        candidates: the two.
        outcome: a step of the funnel; empty until it is known.
        scores: the metric of each, in the order of the candidates; empty unless both were rendered.
    """

    prompt: Prompt
    split: str
    candidates: tuple[Candidate, Candidate]
    outcome: str = ""
    scores: tuple[float, ...] = ()

    @property
    def winner(self) -> str:
        """The kind that scored higher."""
        return self.candidates[0 if self.scores[0] > self.scores[1] else 1].kind


def labels(
    prompts: Path,
    output: Path,
    generator: Generator,
    verifiers: list[Verifier],
    candidates: dict[str, Rewriter],
    gate: IntentGate,
    metric: str,
    min_gap: float = 0.05,
    num_seeds: int = 2,
    val_share: float = 0.1,
    test_prompts: Path | None = None,
    limit: int | None = None,
    backends: dict[str, Any] | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Render what several rewriters make of each prompt, and write down which of every two is better.

    A killed run resumes where it stopped when it is started again. Videos are kept by their content: with another
    ``min_gap``, more prompts or further candidates, only what is new is rendered.

    Args:
        prompts: to train and validate on; see collect run for the kinds of file. A prompt is in one split.
        output: folder of ``{train,val,test}.jsonl``, ``funnel.json``, ``trajectories.sqlite`` and ``videos``.
        generator: makes the videos.
        verifiers: judge them against the raw prompt.
        candidates: two or more rewriters, by name.
        gate: what both texts of a pair must pass.
        metric: what decides, as ``verifier/score``; its means over the seeds are compared.
        min_gap: a pair whose scores differ by less is a near-tie and left out; above 0.
        num_seeds: videos per text.
        val_share: share of ``prompts`` that validates.
        test_prompts: for ``test.jsonl``; those that are among ``prompts`` are taken out there.
        limit: use only so many of ``prompts``, from the start of the file.
        backends: what generator and verifiers are, as JSON, so that a change is noticed when a run is resumed;
            the command line fills it in.
        logger: a W&B run to log to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a setting is out of range, or no pair is left for a split; what was rendered is kept then.
    """
    check(verifiers, candidates, metric, min_gap, num_seeds, val_share)
    splits = split(prompts, test_prompts, val_share, limit)
    # Neither prompts nor candidates: adding some is no reason to render the others again.
    settings: dict[str, Any] = {
        "purpose": PURPOSE,
        "generator": generator.fingerprint,
        "verifiers": list(by_name(verifiers)),
    }
    if backends is not None:
        # The gate decides which pairs there are, not what their videos show.
        settings["backends"] = {name: backends[name] for name in ("generator", "verifiers") if name in backends}
    with Store(output, settings) as store, tracking.start(logger, "labels") as tracked:
        pairs = propose(splits, {name: RetriedRewriter(rewriter, store) for name, rewriter in candidates.items()})
        sift(pairs, gate)
        judge(pairs, Renderer(store, generator, by_name(verifiers), num_seeds, PURPOSE), metric, min_gap)
        funnel = {name: count([pair for pair in pairs if pair.split == name]) for name in splits}
        report = {**settings, "metric": metric, "min_gap": min_gap, "num_seeds": num_seeds, "splits": funnel}
        write_json(output / "funnel.json", report)
        tracked.log({f"labels/{name}/{step}": float(funnel[name][step]) for name in splits for step in FUNNEL})
        tracked.log_table("labels/pairs", *table(pairs))
        show(funnel)
        for name in splits:
            if not funnel[name]["kept"]:
                raise ValueError(
                    f"no pair is left for {name}.jsonl of {output}, see the table above; use more prompts or seeds, "
                    "or candidates that differ more. What was rendered is kept."
                )
        for name in splits:
            kept = [pair for pair in pairs if pair.split == name and pair.outcome == "kept"]
            write_records(output / f"{name}.jsonl", [record for pair in kept for record in both_orders(pair)])
        store.finish()


def check(
    verifiers: Sequence[Verifier],
    candidates: Mapping[str, Rewriter],
    metric: str,
    min_gap: float,
    num_seeds: int,
    val_share: float,
) -> None:
    """Refuse settings before anything is rendered.

    Raises:
        ValueError: naming the setting.
    """
    if len(candidates) < 2:
        raise ValueError(f"candidates must name at least two rewriters, got {', '.join(candidates) or 'none'}.")
    ranked = [name for name, verifier in by_name(verifiers).items() if verifier.ranked]
    if metric.partition("/")[0] not in ranked:
        raise ValueError(
            f"metric is {metric!r}, and no verifier of that name ranks; it must begin with "
            f"{' or '.join(f'{name}/' for name in ranked) or 'the name of one, and there is none'}."
        )
    if not 0 < min_gap <= 1:
        raise ValueError(f"min_gap must be above 0 and at most 1, got {min_gap}.")
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}.")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be above 0 and below 1, got {val_share}.")


def split(prompts: Path, test_prompts: Path | None, val_share: float, limit: int | None) -> dict[str, list[Prompt]]:
    """Put each prompt in one split, by its text, so that no text is in two whatever its task.

    Raises:
        ValueError: if a split is left empty.
    """
    test = [] if test_prompts is None else read_prompts(test_prompts)
    held_out = {prompt.prompt for prompt in test}
    asked = [prompt for prompt in read_prompts(prompts, limit) if prompt.prompt not in held_out]
    texts = sorted({prompt.prompt for prompt in asked}, key=content_id)
    if len(texts) < 2:
        raise ValueError(
            f"{prompts} holds {len(texts)} prompts that are not test prompts; training and validation need one each."
        )
    validating = set(texts[: min(max(1, round(len(texts) * val_share)), len(texts) - 1)])
    splits = {
        "train": [prompt for prompt in asked if prompt.prompt not in validating],
        "val": [prompt for prompt in asked if prompt.prompt in validating],
    }
    return splits | ({"test": test} if test else {})


def propose(splits: Mapping[str, Sequence[Prompt]], candidates: Mapping[str, Rewriter]) -> list[Pair]:
    """Rewrite every prompt in every way, and pair the rewrites of each."""
    asked = [(name, prompt) for name, members in splits.items() for prompt in members]
    texts = {kind: rewriter.rewrite([prompt for _, prompt in asked]) for kind, rewriter in candidates.items()}
    return [
        Pair(prompt, name, (Candidate(first, texts[first][index]), Candidate(second, texts[second][index])))
        for index, (name, prompt) in enumerate(asked)
        for first, second in combinations(candidates, 2)
    ]


def sift(pairs: Sequence[Pair], gate: IntentGate) -> None:
    """Leave out pairs with a text that fails the gate, where a rewriter gave the prompt back, or of twice one text."""
    texts = list(dict.fromkeys((pair.prompt.prompt, c.text) for pair in pairs for c in pair.candidates))
    refused = {text for text, report in zip(texts, gate.check(texts), strict=True) if not report.passed}
    for pair in pairs:
        raw, first, second = pair.prompt.prompt, *(candidate.text for candidate in pair.candidates)
        if {(raw, first), (raw, second)} & refused or raw in (first, second):
            pair.outcome = "refused"
        elif first == second:
            pair.outcome = "alike"


def judge(pairs: Sequence[Pair], renderer: Renderer, metric: str, min_gap: float) -> None:
    """Render and score what is left.

    Raises:
        ValueError: if the verifier gives no such score; found out on the first batch.
    """
    left = [pair for pair in pairs if not pair.outcome]
    entries = list(dict.fromkeys((pair.prompt, c.text) for pair in left for c in pair.candidates))
    first_batch = max(1, renderer.generator.batch_size // renderer.num_seeds)
    scores: dict[tuple[Prompt, str], float] = {}
    for batch in (entries[:first_batch], entries[first_batch:]):
        for entry, assessment in zip(batch, renderer.assess(batch), strict=True):
            if assessment.error is not None:
                continue
            if metric not in assessment.scores:
                raise ValueError(f"there is no score {metric!r}; the verifiers give {', '.join(assessment.scores)}.")
            scores[entry] = assessment.scores[metric]
    for pair in left:
        first, second = ((pair.prompt, candidate.text) for candidate in pair.candidates)
        if first not in scores or second not in scores:
            pair.outcome = "unjudged"
            continue
        pair.scores = scores[first], scores[second]
        # Scores are means of few shares; what differs by the gap itself must not fall to rounding.
        pair.outcome = "near_ties" if abs(scores[first] - scores[second]) < min_gap - 1e-9 else "kept"


def both_orders(pair: Pair) -> list[Choice]:
    """Write a pair down twice, with each candidate as A once."""
    records = []
    for order in ((0, 1), (1, 0)):
        first, second = (pair.candidates[index] for index in order)
        scores = {pair.candidates[index].kind: pair.scores[index] for index in order}
        records.append(
            Choice(
                id=content_id("choice", pair.prompt.id, first.text, second.text),
                prompt_id=pair.prompt.id,
                prompt=choose(pair.prompt, first.text, second.text),
                label=CHOICE_LABELS[0 if pair.winner == first.kind else 1],
                scores=scores,
            )
        )
    return records


def count(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How many pairs end at each step, and how often each kind wins those that are kept."""
    outcomes = Counter(pair.outcome for pair in pairs)
    wins = Counter(pair.winner for pair in pairs if pair.outcome == "kept")
    kinds = dict.fromkeys(candidate.kind for pair in pairs for candidate in pair.candidates)
    funnel = {"pairs": len(pairs)} | {step: outcomes[step] for step in FUNNEL[1:]}
    return {**funnel, "wins": {kind: wins[kind] for kind in kinds}}


def table(pairs: Sequence[Pair]) -> tuple[list[str], list[list[tracking.Cell]]]:
    """List the first pairs, with their outcomes."""
    columns = ["split", "prompt", "first", "second", "first_score", "second_score", "outcome"]
    rows: list[list[tracking.Cell]] = []
    for pair in pairs[:NUM_PAIRS_LOGGED]:
        texts = [f"{candidate.kind}: {candidate.text}" for candidate in pair.candidates]
        rows.append([pair.split, pair.prompt.prompt, *texts, *(pair.scores or (None, None)), pair.outcome])
    return columns, rows


def show(funnel: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the outcomes of the pairs of each split."""
    shown = Table("split", *(step.replace("_", " ") for step in FUNNEL), "won by", title="pairs of rewrites")
    for name, counts in funnel.items():
        wins = ", ".join(f"{kind} {number}" for kind, number in counts["wins"].items())
        shown.add_row(name, *(str(counts[step]) for step in FUNNEL), wins)
    PlainConsole().print(shown)
