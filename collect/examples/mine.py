"""Stage 3's examples from trajectories: (raw prompt, champion) records, and pairs of a better and a worse rewrite."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from rich.table import Table

from collect import tracking
from collect.console import PlainConsole
from collect.examples.preference import DEFAULT_RULE, Group, Judged, Pair, PairRule, groups_of, text_pairs, video_pairs
from collect.intent.gate import IntentGate
from collect.intent.problems import doubles_a_word
from collect.protocols import LanguageModel
from collect.search.sspo import Trajectory
from collect.search.trajectories import read_seed_scores, read_trajectories
from data_modules.records import Evidence, Message, Preference, Rewrite, content_id, write_records
from data_modules.schema import write_json
from data_modules.templates import refactor

MIN_RECORDS = 2  # one to train on, one to validate with

_ADVICE = {
    "prompts": "give collect run more prompts.",
    "rewritten": "the raw prompt won nearly every search: give collect run more rounds or a better proposer.",
    "gated": "what was best lost the user's intent or doubles a word: look at what the gate refuses.",
    "improved": "the champions are no better than the raw prompts on this metric: lower min_gain or search longer.",
    "pairs": "nearly all candidates score alike: give collect run more rounds, or verifiers that tell them apart.",
    "floored": "what was best is below preference.floors: lower them or search longer.",
    "dominant": "what is better on one metric is worse on another: raise preference.tolerance.",
    "clear": "the gaps are within the noise of the seeds: give collect run more seeds, or lower preference.min_gap_*.",
    "even": "better rewrites are much longer or shorter than worse ones: raise preference.max_length_ratio.",
    "video": "raise preference.max_pairs.",
}


def mine(
    trajectories: Path,
    output: Path,
    gate: IntentGate,
    metric: str,
    task_metric: str | None = None,
    min_gain: float = 0.0,
    raw_share: float = 0.1,
    val_share: float = 0.1,
    preference: PairRule | None = DEFAULT_RULE,
    rewriter: LanguageModel | None = None,
    backends: dict[str, Any] | None = None,
    logger: WandbLogger | None = None,
) -> None:
    """Turn finished searches into examples to tune a rewriter on.

    A supervised example is a raw prompt and its champion, where the champion passed the intent gate and beat the raw
    prompt; a few prompts that every rewrite made worse teach leaving good prompts alone. A preference pair is two
    rewrites of one prompt of which one is better beyond the noise of the seeds.

    Args:
        trajectories: folder that collect run wrote.
        output: folder of ``sft``, ``preference`` and ``funnel.json``.
        gate: what a champion or a chosen rewrite must pass.
        metric: what it must be better on, as ``verifier/score``.
        task_metric: being better on this one will do for a chosen rewrite, too.
        min_gain: by more than how much a champion must beat the raw prompt.
        raw_share: at most this share of the supervised examples leaves a prompt alone.
        val_share: share of the source prompts held out for validation.
        preference: what a pair takes; ``null`` mines none.
        rewriter: a sampling language model, asked for further rewrites; those that the gate refuses are set against
            the best ones. Without it only candidates of the searches are.
        backends: what gate and rewriter are, written beside the records; the command line fills it in.
        logger: a W&B run to log to.
    """
    for name, share in (("raw_share", raw_share), ("val_share", val_share)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in [0, 1), got {share}.")
    searches, settings = read_trajectories(trajectories)
    metrics = sorted({name for search in searches for name in search.raw.assessment.scores})
    targets = [metric] if task_metric is None else [metric, task_metric]
    for name in targets:
        if name not in metrics:
            known = ", ".join(metrics) or "none"
            raise ValueError(f"{trajectories} has no metric {name!r} that ranks; it has {known}.")
    groups = groups_of(searches, read_seed_scores(trajectories), metrics)
    if preference is not None:
        preference.check(metrics)
        require_seeds(trajectories, groups)

    champions, sft_funnel = best_rewrites(searches, gate, metric, min_gain)
    require(trajectories, "examples", sft_funnel, MIN_RECORDS)
    alone = already_good(searches, metric, quota=int(len(champions) * raw_share / (1 - raw_share)))
    sft_funnel |= {"left_alone": len(alone), "kept": len(champions) + len(alone)}
    pairs: list[Pair] = []
    pair_funnel: dict[str, int] = {}
    if preference is not None:
        pairs, pair_funnel = video_pairs(groups, gate, preference, metrics, targets)
        require(trajectories, "preference pairs", pair_funnel, preference.min_pairs)
        refused = text_pairs(groups, pairs, gate, preference, metrics, rewriter)
        pairs = [*pairs, *refused]
        pair_funnel |= {"text": len(refused), "kept": len(pairs)}

    kept = [*champions, *alone]
    held_out = hold_out([{s.prompt.prompt for s in kept}, {p.group.prompt.prompt for p in pairs}], val_share)
    by_id = {group.prompt.id: group for group in groups}
    rewrites = [(s.prompt.prompt, *rewrite(s, by_id[s.prompt.id], metrics)) for s in kept]
    preferences = [(p.group.prompt.prompt, *preferred(p, metrics)) for p in pairs]
    for kind, funnel, records in (("sft", sft_funnel, rewrites), ("preference", pair_funnel, preferences)):
        if records:
            funnel["val"] = sum(text in held_out for text, _, _ in records)
            funnel["train"] = len(records) - funnel["val"]
            if not funnel["train"]:
                raise ValueError(
                    f"{trajectories} leaves no {kind} record to train on beside those held out for validation; "
                    "give collect run more prompts."
                )
    save(output / "sft", rewrites, held_out)
    if preferences:
        save(output / "preference", preferences, held_out)
    provenance = {
        "trajectories": str(trajectories),
        "settings": settings,
        "backends": backends,
        "metrics": metrics,
        "metric": metric,
        "task_metric": task_metric,
        "min_gain": min_gain,
        "raw_share": raw_share,
        "val_share": val_share,
        "preference": None if preference is None else asdict(preference),
    }
    funnels = {"sft": sft_funnel, "preference": pair_funnel}
    write_json(output / "funnel.json", {**provenance, "funnel": funnels})
    show("from searches to examples", sft_funnel)
    if preference is not None:
        show("from candidates to preference pairs", pair_funnel)
    with tracking.start(logger, "mine") as tracked:
        tracked.log({f"mine/{kind}/{step}": count for kind, steps in funnels.items() for step, count in steps.items()})
        rows: list[list[tracking.Cell]] = [
            [s.prompt.prompt, s.champion.text, gain(s, metric), s.champion.proposal.origin] for s in kept
        ]
        tracked.log_table("mine/records", ["prompt", "champion", "gain", "origin"], rows)
        rows = [[p.group.prompt.prompt, p.chosen.text, p.rejected.text, p.margin, p.kind] for p in pairs]
        tracked.log_table("mine/pairs", ["prompt", "chosen", "rejected", "margin", "kind"], rows)


def require_seeds(trajectories: Path, groups: Sequence[Group]) -> None:
    """See that every prompt was rendered with the same number of seeds, enough to know how noisy they are.

    Raises:
        ValueError: if not.
    """
    counts = {len(group.seeds) for group in groups}
    if len(counts) > 1 or min(counts) < 2:
        found = " or ".join(str(count) for count in sorted(counts))
        raise ValueError(
            f"{trajectories} has {found} seeds per prompt; preference pairs need the same number for all, at least 2, "
            "to tell a difference from noise. Collect with more num_seeds, or set preference to null."
        )


def best_rewrites(
    searches: Sequence[Trajectory], gate: IntentGate, metric: str, min_gain: float
) -> tuple[list[Trajectory], dict[str, int]]:
    """Choose the searches whose champion is an example, and count how many each step left."""
    rewritten = [search for search in searches if search.champion is not search.raw]
    reports = gate.check([(search.prompt.prompt, search.champion.text) for search in rewritten])
    gated = [
        search
        for search, report in zip(rewritten, reports, strict=True)
        if report.passed and not doubles_a_word(search.prompt.prompt, search.champion.text)
    ]
    improved = [search for search in gated if gain(search, metric) > min_gain]
    counts = {"prompts": len(searches), "rewritten": len(rewritten), "gated": len(gated), "improved": len(improved)}
    return improved, counts


def require(trajectories: Path, what: str, funnel: Mapping[str, int], least: int) -> None:
    """See that no step left too few.

    Raises:
        ValueError: naming the first step that did, and what can be done.
    """
    for step, count in funnel.items():
        if count < least:
            steps = ", ".join(f"{name} {number}" for name, number in funnel.items())
            raise ValueError(
                f"{trajectories} leaves too few {what}: {steps}. The step {step!r} left {count}, at least "
                f"{least} are needed; {_ADVICE[step]}"
            )


def gain(search: Trajectory, metric: str) -> float:
    """By how much the champion beats the raw prompt."""
    return search.champion.assessment.scores[metric] - search.raw.assessment.scores[metric]


def already_good(searches: Sequence[Trajectory], metric: str, quota: int) -> list[Trajectory]:
    """Choose prompts that nothing improved and every rewrite made worse, in the order of their ids.

    A raw prompt that a rewrite equals is none: with few seeds chance draws many a poor prompt well, and a rewriter
    that learns from those to leave prompts alone leaves poor ones.
    """
    good = [
        search
        for search in searches
        if search.raw.assessment.scores[metric] >= 1.0
        and len(search.candidates) > 1
        and all(other.assessment.scores[metric] < 1.0 for other in search.candidates[1:])
    ]
    return sorted(good, key=lambda search: search.prompt.id)[:quota]


def hold_out(sources: Iterable[set[str]], share: float) -> set[str]:
    """Hold out a share of each set of source prompts, at least one, so that none is trained on anywhere."""
    held_out: set[str] = set()
    for texts in sources:
        ordered = sorted(texts, key=lambda text: (text not in held_out, content_id(text)))
        held_out |= set(ordered[: max(1, round(len(ordered) * share))])
    return held_out


def rewrite(search: Trajectory, group: Group, metrics: Sequence[str]) -> tuple[Rewrite, Evidence]:
    """Write one example: the rewriter's own template in, the champion out."""
    prompt, text = search.prompt, search.champion.text
    judged = {candidate.text: candidate for candidate in group.candidates}
    record = Rewrite(content_id("mined", prompt.id, text), refactor(prompt.prompt, prompt.task), [answer(text)])
    roles = {"raw": judged[search.raw.text], "champion": judged[text]}
    return record, evidence(record.id, group, roles, metrics)


def preferred(pair: Pair, metrics: Sequence[str]) -> tuple[Preference, Evidence]:
    """Write one pair under the rewriter's own template."""
    prompt = pair.group.prompt
    record = Preference(
        id=content_id("preferred", prompt.id, pair.chosen.text, pair.rejected.text),
        prompt=refactor(prompt.prompt, prompt.task),
        chosen=[answer(pair.chosen.text)],
        rejected=[answer(pair.rejected.text)],
        margin=pair.margin,
        kind=pair.kind,
    )
    return record, evidence(record.id, pair.group, {"chosen": pair.chosen, "rejected": pair.rejected}, metrics)


def answer(text: str) -> Message:
    """What the rewriter is to say."""
    return {"role": "assistant", "content": text}


def evidence(record_id: str, group: Group, roles: Mapping[str, Judged], metrics: Sequence[str]) -> Evidence:
    """Write down what a record rests on."""
    return Evidence(
        id=record_id,
        prompt_id=group.prompt.id,
        texts={role: judged.text for role, judged in roles.items()},
        origins={role: judged.origin for role, judged in roles.items()},
        seeds=group.seeds,
        scores={role: dict(zip(metrics, judged.scores.tolist(), strict=True)) for role, judged in roles.items()},
    )


def save(folder: Path, records: Sequence[tuple[str, Any, Evidence]], held_out: set[str]) -> None:
    """Write both splits of one kind of record, given with its source prompt, and the evidence for all of them."""
    write_records(folder / "train.jsonl", [record for text, record, _ in records if text not in held_out])
    write_records(folder / "val.jsonl", [record for text, record, _ in records if text in held_out])
    write_records(folder / "evidence.jsonl", [evidence for _, _, evidence in records])


def show(title: str, funnel: Mapping[str, int]) -> None:
    """Print how many each step left."""
    table = Table("step", "left", title=title)
    for step, count in funnel.items():
        table.add_row(step.replace("_", " "), str(count))
    PlainConsole().print(table)
