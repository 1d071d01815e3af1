"""How much of the user's intent real rewriters lose, and how much of what is taken out of a rewrite the gate notices.

``pytest -s -m bench tests/benchmarks/bench_intent.py`` checks three published sets of rewrites of VBench's prompts: by
GPT-4o, as VBench's authors give them for CogVideoX; by Qwen2.5, as Wan2.1 extends prompts; and those released with
Self-Forcing. ``VBENCH`` in the environment names the folder of ``prompts.txt`` and the three files in ``REWRITERS``, a
text a line, line by line of the same prompts.
"""

import os
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from collect.intent.gate import IntentGate, IntentReport
from collect.intent.items import intent_items
from collect.intent.words import lemma
from tests.collect.intent.test_gate import FUNCTION_WORDS, without, words
from tests.collect.intent.test_gate import VBENCH as BESIDE

VBENCH = Path(os.environ.get("VBENCH", BESIDE))
REWRITERS = {
    "GPT-4o": "rewrites_gpt4o.txt",
    "Wan2.1 (Qwen2.5)": "rewrites_wan2.1_qwen.txt",
    "Self-Forcing": "rewrites_self_forcing.txt",
}
KINDS = ("word", "colour", "number", "relation", "camera", "name")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not VBENCH.is_dir(), reason=f"{VBENCH} is not here; name its folder in VBENCH"),
]


def texts(name: str) -> list[str]:
    return (VBENCH / name).read_text(encoding="utf-8").splitlines()


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} of {whole:,}" if whole else "-"


def lost(prompt: str, report: IntentReport) -> Counter[tuple[str, bool]]:
    """How many items of each kind a rewrite keeps (False) and loses (True)."""
    gone = {*report.missing, *report.contradicted}
    return Counter((item.kind, item.text in gone) for item in intent_items(prompt))


def literally(word: str, rewrite: str) -> str:
    """Remove a word in all its inflections, and leave what may stand for it."""
    return re.sub(
        r"[^\W\d_]+", lambda match: "" if lemma(match.group().lower()) == lemma(word) else match.group(), rewrite
    )


def test_how_much_intent_real_rewriters_lose_and_the_gate_notices(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = texts("prompts.txt")
    gate = IntentGate(max_tokens=512)
    gate.check([("a warm-up", "A warm-up.")])
    rng = random.Random(0)
    lose = Table("rewriter", "prompts", "pass", "kept, mean", *(f"{kind}s lost" for kind in KINDS))
    notice = Table("rewriter", "word and stand-ins gone", "only the word gone", "every word kept, refused", "Chinese")
    seconds, checks = 0.0, 0
    for name, file in REWRITERS.items():
        pairs = list(zip(prompts, texts(file), strict=True))
        start = time.process_time()
        reports = gate.check(pairs)
        seconds, checks = seconds + time.process_time() - start, checks + len(pairs)
        kinds = sum((lost(prompt, report) for (prompt, _), report in zip(pairs, reports, strict=True)), Counter())
        lose.add_row(
            name,
            f"{len(pairs)}",
            f"{np.mean([report.passed for report in reports]):.1%}",
            f"{np.mean([report.kept_share for report in reports]):.3f}",
            *(share(kinds[kind, True], kinds[kind, True] + kinds[kind, False]) for kind in KINDS),
        )
        chinese = [
            report for (_, rewrite), report in zip(pairs, reports, strict=True) if re.search("[\u4e00-\u9fff]", rewrite)
        ]
        literal = [
            report
            for (prompt, rewrite), report in zip(pairs, reports, strict=True)
            if not re.search("[\u4e00-\u9fff]", rewrite)
            and {lemma(word) for word in words(prompt) if word not in FUNCTION_WORDS}
            <= {form for word in words(rewrite) for form in (word, lemma(word))}
        ]
        removed = []
        for (prompt, rewrite), report in zip(pairs, reports, strict=True):
            present = [word for word in dict.fromkeys(words(prompt)) if len(word) > 2 and word not in FUNCTION_WORDS]
            present = [word for word in present if lemma(word) in {lemma(other) for other in words(rewrite)}]
            if report.passed and present:
                removed.append((prompt, rewrite, rng.choice(present)))
        gone = gate.check([(prompt, without(rewrite, word)) for prompt, rewrite, word in removed])
        only = gate.check([(prompt, literally(word, rewrite)) for prompt, rewrite, word in removed])
        notice.add_row(
            name,
            share(sum(not report.passed for report in gone), len(gone)),
            share(sum(not report.passed for report in only), len(only)),
            share(sum(not report.passed for report in literal), len(literal)),
            share(sum(not report.passed for report in chinese), len(chinese)),
        )
        assert sum(not report.passed for report in gone) >= 0.95 * len(gone)
        assert sum(not report.passed for report in literal) <= 0.02 * len(literal)
        assert not any(report.passed for report in chinese)
    with capsys.disabled():
        console = Console(width=160)
        console.print(lose)
        console.print(notice)
        console.print(
            f"{checks:,} checks in {seconds:.1f} s of processor time: {1000 * seconds / checks:.1f} s per 1,000"
        )
