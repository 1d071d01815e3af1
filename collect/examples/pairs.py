"""Stage 1's training data: captions with their form broken by a language model, to be put back in form."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning.pytorch.loggers import WandbLogger

from collect import tracking
from collect.backends.answers import write
from collect.console import PlainConsole
from collect.intent.gate import IntentGate
from collect.prompts import fault, read_captions
from collect.protocols import LanguageModel
from data_modules import templates
from data_modules.records import Rewrite, content_id, unique, write_records

NUM_EXAMPLES_LOGGED = 30
FUNNEL = ("asked", "cut", "empty", "unchanged", "adds", "repeated", "kept")


def pairs(
    captions: Path,
    output_dir: Path,
    language_model: LanguageModel,
    gate: IntentGate,
    styles: Sequence[templates.DeformStyle] = ("short", "generic", "reordered", "long", "tags"),
    val_share: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    logger: WandbLogger | None = None,
) -> None:
    """Write ``{train,val}.jsonl``: a rewriter's prompts are deformed captions, its answers the captions themselves.

    A deformation that says more than its caption would teach the rewriter to drop what users ask for, so it is left
    out and counted. All deformations of a caption are in the same split, and no prompt is in both.

    Args:
        captions: genuine captions of the video model: ``.jsonl`` of caption records, ``.txt`` with a caption a line, or
            ``.csv`` with a column ``caption``.
        output_dir: folder to write to.
        language_model: breaks the form; one that samples gives more various prompts.
        gate: what a caption must pass as a rewrite of its deformation.
        styles: forms to break captions into; one named twice is asked for twice.
        val_share: share of the captions that validate, above 0 and below 1.
        limit: use only so many captions, from the start of the file.
        seed: of the language model.
        logger: a W&B run to log to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a setting is out of range, or too little is left for two splits.
    """
    if not styles:
        raise ValueError(f"styles is empty; name at least one of {', '.join(get_args(templates.DeformStyle))}.")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be above 0 and below 1, got {val_share}.")
    if limit is not None and limit < 2:
        raise ValueError(f"limit must be at least 2, one caption for each split, got {limit}.")
    corpus = unique(read_captions(captions))[:limit]
    console = PlainConsole()
    with tracking.start(logger, "pairs") as tracked:
        asked = [(caption, style) for caption in corpus for style in styles]
        conversations = [templates.deform(caption.caption, style) for caption, style in asked]
        deformed = write(language_model, conversations, [caption.caption for caption, _ in asked], seed=seed)
        reports = gate.check([(str(text), caption.caption) for text, (caption, _) in zip(deformed, asked, strict=True)])
        funnel = Counter(dict.fromkeys(FUNNEL, 0) | {"asked": len(asked)})
        num_val = max(1, round(val_share * len(corpus)))
        val_ids = {caption.id for caption in sorted(corpus, key=lambda caption: content_id(caption.id))[:num_val]}
        splits: dict[str, list[Rewrite]] = {"train": [], "val": []}
        rows: list[list[tracking.Cell]] = []
        seen: set[str] = set()
        for answer, (caption, style), report in zip(deformed, asked, reports, strict=True):
            text = str(answer)
            if answer.fault is not None:
                outcome = "cut"
            elif fault(text):
                outcome = "empty"
            elif text == caption.caption:
                outcome = "unchanged"
            elif not report.passed:
                outcome = "adds"
            elif text in seen:
                outcome = "repeated"
            else:
                outcome = "kept"
                seen.add(text)
                splits["val" if caption.id in val_ids else "train"].append(_pair(text, caption.caption))
            funnel[outcome] += 1
            if len(rows) < NUM_EXAMPLES_LOGGED:
                rows.append([style, text, caption.caption, outcome])
        for name, records in splits.items():
            if not records:
                raise ValueError(
                    f"no pair is left for the {name} split ({_told(funnel)}); use more captions, or a language model "
                    "that follows the deform template."
                )
        for name, records in splits.items():
            write_records(output_dir / f"{name}.jsonl", records)
        tracked.log({f"pairs/{name}": float(count) for name, count in funnel.items()})
        tracked.log_table("pairs/examples", ["style", "deformed", "caption", "outcome"], rows)
    console.print(f"{_told(funnel)}; {len(splits['train'])} train, {len(splits['val'])} val pairs in {output_dir}")


def _pair(deformed: str, caption: str) -> Rewrite:
    return Rewrite(
        content_id(deformed, caption),
        templates.refactor(deformed),
        [{"role": "assistant", "content": caption}],
    )


def _told(funnel: Counter[str]) -> str:
    return (
        f"{funnel['asked']} deformations: {funnel['kept']} kept, {funnel['adds']} say more than their caption, "
        f"{funnel['unchanged']} unchanged, {funnel['repeated']} repeated, {funnel['empty']} empty, "
        f"{funnel['cut']} not whole"
    )
