"""Prompts in, better prompts out, with what was done to each: Stage 1 from the command line."""

import itertools
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from rich.text import Text

from collect.console import PlainConsole
from collect.intent.gate import IntentReport
from collect.intent.words import WORD, lemma
from collect.prompts import fault, read_prompts
from collect.rewriters.rapo import RAPORewriter, Rewriting
from data_modules.records import Messages, Prompt, content_id, to_line
from data_modules.text import lines_of, quoted

logger = logging.getLogger(__name__)

CHUNK = 256  # prompts rewritten before their results are written


class NoLanguageModel:
    """Stands in for the merger of a dry run, in which no language model is loaded."""

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        """Never asked."""
        raise AssertionError


# What takes the place of the models that a config names, where none is to be loaded.
NOT_ASKED: dict[str, Any] = {
    "merger": Namespace(class_path="collect.rewriters.rewrite.NoLanguageModel", init_args=Namespace()),
    "refactorer": None,
    "direct": None,
    "others": None,
    "discriminator": None,
}


def rewrite(
    rewriter: RAPORewriter,
    texts: Sequence[str] = (),
    prompts: Path | None = None,
    format: Literal["diff", "jsonl"] = "diff",
    dry_run: bool = False,
    limit: int | None = None,
) -> None:
    """Rewrite prompts and say what was added, kept and dropped. Results go to standard output, the rest to the other.

    Prompts come from the end of the command line, from a file, or, where there is neither, from standard input, one a
    line. Where no rewrite passes the intent gate, the raw prompt is the answer.

    Args:
        rewriter: Stage 1, with all or some of its parts.
        texts: prompts.
        prompts: ``.jsonl`` of prompt records, ``.txt`` with a prompt a line, or ``.csv``.
        format: ``diff`` to read, ``jsonl`` to read on with programs.
        dry_run: show what is found in the graph and what the merger would be asked; loads no model but the encoder.
        limit: use only so many prompts, from the start.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no usable prompt, or there are prompts from two places.
    """
    if prompts is not None:
        asked = read_prompts(prompts, limit)
    else:
        asked = [Prompt(content_id(text, ""), text) for text in gather(texts, prompts)][:limit]
    console = PlainConsole(soft_wrap=True, highlight=False)
    outcomes: Counter[str] = Counter()
    for start in range(0, len(asked), CHUNK):
        chunk = asked[start : start + CHUNK]
        if dry_run:
            show_requests(chunk, rewriter, format, console)
            continue
        for rewriting in rewriter.explain(chunk):
            outcomes[rewriting.origin] += 1
            if format == "jsonl":
                sys.stdout.write(to_line(to_json(rewriting)))
            else:
                console.print(difference(rewriting))
        sys.stdout.flush()
    if not dry_run:
        told = ", ".join(f"{count} {origin}" for origin, count in outcomes.most_common())
        merges = ", ".join(f"{count} {outcome}" for outcome, count in rewriter.merges.most_common()) or "none"
        logger.info("%d prompts: %s. Merges: %s.", len(asked), told, merges)


def gather(texts: Sequence[str], prompts: Path | None) -> list[str]:
    """Take prompts from the command line, or, where there are none and no file, from standard input.

    Returns:
        The prompts, stripped; none where they are in a file.

    Raises:
        ValueError: if one on the command line is unusable, or standard input has none that is usable, or there are
            prompts on the command line and in a file.
    """
    if prompts is not None:
        if texts:
            raise ValueError(f"there are prompts in {prompts} and on the command line; give one or the other.")
        return []
    if texts:
        for text in texts:
            if fault(text):
                raise ValueError(f"the prompt {quoted(text)} {fault(text)}.")
        return [text.strip() for text in texts]
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError("there are no prompts; give some at the end of the command, in a file, or on standard input.")
    lines = [line.strip() for line in lines_of(sys.stdin.read()) if line.strip()]
    usable = [line for line in lines if not fault(line)]
    for line in lines:
        if fault(line):
            logger.warning("A line of standard input is skipped: %r %s.", line[:60], fault(line))
    if not usable:
        raise ValueError("standard input holds no usable prompt; it takes one a line.")
    return usable


def show_requests(prompts: Sequence[Prompt], rewriter: RAPORewriter, format: str, console: PlainConsole) -> None:
    """Write what was retrieved for each prompt, and the merges that would be asked for if all kept intent."""
    for prompt, modifiers in zip(prompts, rewriter.retrieve(prompts), strict=True):
        requests = [rewriter.merge_request(prompt.prompt, modifier) for modifier in modifiers]
        if format == "jsonl":
            row = {
                "id": prompt.id,
                "prompt": prompt.prompt,
                "modifiers": [asdict(modifier) for modifier in modifiers],
                "requests": requests,
            }
            sys.stdout.write(to_line(row))
            continue
        console.print(Text(prompt.prompt, "bold"))
        for modifier in modifiers:
            console.print(f"  {modifier.similarity:.2f} {modifier.kind}: {modifier.phrase} (seen {modifier.count})")
        if not modifiers:
            console.print("  nothing found: no merge")
        for request in requests[:1]:
            console.print(Text("\n".join(f"    {line}" for line in request[-1]["content"].splitlines()), "dim"))
        if len(requests) > 1:
            console.print(f"  and so on with the other {len(requests) - 1}, from each answer that keeps intent")


def changes(raw: str, text: str) -> dict[str, list[str]]:
    """Which words a rewrite keeps, drops and adds; case, marks and inflection are no difference."""
    before, after = ([match.group().lower() for match in WORD.finditer(one)] for one in (raw, text))
    stays, known = _shared(before, after), _shared(after, before)
    return {
        "added": [word for word, old in zip(after, known, strict=True) if not old],
        "kept": [word for word, kept in zip(before, stays, strict=True) if kept],
        "dropped": [word for word, kept in zip(before, stays, strict=True) if not kept],
    }


def _shared(words: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Whether each word is one of the others in any inflection; each of those counts once."""
    left = Counter(map(lemma, others))
    found = []
    for word in map(lemma, words):
        found.append(left[word] > 0)
        left[word] -= 1
    return found


def to_json(rewriting: Rewriting) -> dict[str, Any]:
    """Everything about a rewrite, as one line of JSON."""
    return {
        "id": rewriting.prompt.id,
        "prompt": rewriting.prompt.prompt,
        "task": rewriting.prompt.task,
        "rewrite": rewriting.text,
        "origin": rewriting.origin,
        **changes(rewriting.prompt.prompt, rewriting.text),
        "modifiers": [asdict(modifier) for modifier in rewriting.retrieved],
        "merges": [
            {"modifier": merge.modifier.phrase, "text": merge.text, "outcome": merge.outcome, **_gate(merge.report)}
            for merge in rewriting.merges
        ],
        "candidates": [
            {
                "origin": candidate.origin,
                "text": candidate.text,
                "preference": candidate.preference,
                **_gate(candidate.report),
            }
            for candidate in rewriting.candidates
        ],
    }


def _gate(report: IntentReport) -> dict[str, Any]:
    return {"gate": {"passed": report.passed, "kept_share": round(report.kept_share, 4), **asdict(report)}}


def difference(rewriting: Rewriting) -> Text:
    """A rewrite to read: added words in braces, dropped ones listed, then what was done and refused."""
    raw, text = rewriting.prompt.prompt, rewriting.text
    words = changes(raw, text)
    shown = Text.assemble((f"{raw}\n", "bold"), f"  {rewriting.origin}: ")
    matches = list(WORD.finditer(text))
    known = _shared(
        [match.group().lower() for match in matches], [match.group().lower() for match in WORD.finditer(raw)]
    )
    end = 0
    for old, group in itertools.groupby(zip(known, matches, strict=True), key=lambda pair: pair[0]):
        run = [match for _, match in group]
        phrase = text[run[0].start() : run[-1].end()]
        shown.append(text[end : run[0].start()])
        shown.append(phrase if old else f"{{+{phrase}+}}", None if old else "green")
        end = run[-1].end()
    shown.append(f"{text[end:]}\n")
    for name, style in (("added", "green"), ("kept", None), ("dropped", "red")):
        shown.append(f"  {name}: {' '.join(words[name]) or '-'}\n", style)
    for merge in rewriting.merges:
        why = f" ({_why(merge.report)})" if merge.outcome == "undone" else ""
        shown.append(f"  {merge.modifier.phrase}: {merge.outcome}{why}\n", "dim")
    for candidate in rewriting.candidates:
        if not candidate.report.passed:
            shown.append(f"  {candidate.origin} refused: {_why(candidate.report)}\n", "dim")
        elif candidate.preference is not None:
            shown.append(
                f"  {candidate.origin} better than the others with probability {candidate.preference:.2f}\n", "dim"
            )
    return shown


def _why(report: IntentReport) -> str:
    """What the gate found wrong, in a few words."""
    parts = [f"lost {item}" for item in report.missing]
    parts += [f"contradicts {item}" for item in report.contradicted]
    return ", ".join([*parts, *report.problems])
