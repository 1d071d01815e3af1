"""Other words for the same request, found without rendering anything, so that a choice has something to choose from."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import collect.__main__
from collect.backends.transformers_lm import TransformersLM
from collect.intent.gate import IntentGate
from collect.protocols import Verdict, Verifier
from collect.rewriters.critique import CritiqueRewriter
from collect.rewriters.lm import LMRewriter
from collect.rewriters.rapo import RAPORewriter
from collect.rewriters.rewording import RewordingRewriter
from collect.verifiers import CallableVerifier, ConsistencyVerifier, FlowVerifier, ToyWorldVerifier
from data_modules.records import Choice, Prompt, read_records
from data_modules.toyworld import asked, mentions
from tests.collect.fakes import FakeRewriter

TEXTS = ["a jade pyramid wafts", "huge lemon carton at night", "scarlet orb, snowy slope", "little azure crate hops"]
PROMPTS = [Prompt(str(index), text) for index, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def gate() -> IntentGate:
    return IntentGate()


@pytest.fixture(scope="module")
def plain(gate: IntentGate) -> LMRewriter:
    return LMRewriter(TransformersLM("models/toy/lm", max_new_tokens=64), gate, template="direct")


@pytest.fixture(scope="module")
def proposer(gate: IntentGate) -> CritiqueRewriter:
    return CritiqueRewriter(TransformersLM("models/toy/lm", max_new_tokens=64, temperature=1.0), gate, num_proposals=2)


def wordings(prompt: Prompt, text: str) -> dict[str, str]:
    """How a text words what the prompt asks for."""
    return {name: found[0][1] for name, found in mentions(text).items() if name in asked(prompt.prompt)}


def test_what_was_asked_for_is_said_in_other_words_and_all_else_is_kept(
    plain: LMRewriter, proposer: CritiqueRewriter, gate: IntentGate
) -> None:
    rewriter = RewordingRewriter(plain, proposer, ToyWorldVerifier())
    before, after = plain.rewrite(PROMPTS), rewriter.rewrite(PROMPTS)
    assert rewriter.outcomes["reworded"] == len(PROMPTS)
    assert all(report.passed for report in gate.check(list(zip(TEXTS, after, strict=True))))
    for prompt, old, new in zip(PROMPTS, before, after, strict=True):
        assert asked(new) == asked(old)
        assert wordings(prompt, new).keys() == asked(prompt.prompt).keys()
        assert not wordings(prompt, new).items() & wordings(prompt, old).items()
        assert {name: found for name, found in mentions(new).items() if name not in asked(prompt.prompt)} == {
            name: found for name, found in mentions(old).items() if name not in asked(prompt.prompt)
        }


def test_seeds_give_other_words_and_two_runs_the_same(plain: LMRewriter, proposer: CritiqueRewriter) -> None:
    def reworded(seed: int) -> list[str]:
        return RewordingRewriter(plain, proposer, ToyWorldVerifier(), seed=seed).rewrite(PROMPTS)

    first, again, other = reworded(0), reworded(0), reworded(1)
    assert first == again
    assert sum(one != two for one, two in zip(first, other, strict=True)) >= len(PROMPTS) // 2


def test_the_seed_of_a_sampling_rewriter_decides_what_it_makes_up(gate: IntentGate) -> None:
    sampling = TransformersLM("models/toy/lm", max_new_tokens=64, temperature=1.0)
    one, same, other = (LMRewriter(sampling, gate, "direct", seed=seed).rewrite(PROMPTS) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_where_the_gate_refuses_every_proposal_the_other_rewriters_answer_stands(
    tiny_lm: Path, gate: IntentGate, caplog: pytest.LogCaptureFixture
) -> None:
    babble = CritiqueRewriter(TransformersLM(str(tiny_lm), max_new_tokens=4, temperature=1.0), gate, num_proposals=2)
    rewriter = RewordingRewriter(FakeRewriter(), babble, CallableVerifier(shows_nothing, "eye"))
    short = [Prompt("1", "an ant"), Prompt("2", "a bee")]
    with caplog.at_level("INFO", "collect.rewriters.lm"):
        assert rewriter.rewrite(short) == ["an ant here", "a bee here"]
    assert rewriter.outcomes == {"refused": 2, "reworded": 0, "uncriticised": 0}
    assert babble.fallbacks == 4
    assert "2 of 2 rewrites are not reworded: for 2 no proposal passed" in caplog.text


class Blind(ToyWorldVerifier):
    """Cannot judge some prompts."""

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        verdicts = super().judge(prompts, videos)
        return [
            Verdict.failed("out of order") if "jade" in prompt.prompt else verdict
            for prompt, verdict in zip(prompts, verdicts, strict=True)
        ]


def test_where_the_verifier_failed_nothing_is_assumed_and_the_others_are_reworded(
    plain: LMRewriter, proposer: CritiqueRewriter, caplog: pytest.LogCaptureFixture
) -> None:
    rewriter = RewordingRewriter(plain, proposer, Blind())
    failed, *others = rewriter.rewrite(PROMPTS)
    assert failed == plain.rewrite(PROMPTS[:1])[0]
    assert others == RewordingRewriter(plain, proposer, ToyWorldVerifier()).rewrite(PROMPTS[1:])
    assert rewriter.outcomes == {"reworded": 3, "refused": 0, "uncriticised": 1}
    assert "An empty video could not be judged: out of order" in caplog.text


def shows_nothing(prompt: Prompt, frames: np.ndarray) -> tuple[float, str]:
    """Say what is missing, as long as the frames are black."""
    assert not frames.any()
    return 0.0, f"Nothing of {prompt.prompt} can be seen."


class Asked:
    """Remembers the critiques it is given, and has no proposal."""

    def __init__(self) -> None:
        self.critiques: list[str] = []

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        self.critiques += critiques
        return [[] for _ in prompts]


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        (ToyWorldVerifier(), "The colour should be red but cannot be seen. The shape should be ball but cannot be"),
        (ToyWorldVerifier("template"), "The colour should be red but cannot be seen."),
        (FlowVerifier(), ""),
        (ConsistencyVerifier(), "Every frame follows from the one before."),
        (CallableVerifier(shows_nothing, "eye"), "Nothing of a red ball can be seen."),
    ],
)
def test_every_verifier_can_judge_the_empty_video(verifier: Verifier, said: str) -> None:
    asked = Asked()
    rewriter = RewordingRewriter(FakeRewriter(), asked, verifier)
    assert rewriter.rewrite([Prompt("1", "a red ball")]) == ["a red ball here"]
    assert all(critique.startswith(said) for critique in asked.critiques)
    assert len(asked.critiques) == rewriter.outcomes["refused"] == 1


def test_a_verifier_without_words_leaves_the_answer_as_it_is() -> None:
    asked = Asked()
    silent = CallableVerifier(len_of, "silent")
    assert RewordingRewriter(FakeRewriter(), asked, silent).rewrite(PROMPTS[:1]) == [f"{TEXTS[0]} here"]
    assert not asked.critiques


def len_of(prompt: Prompt, frames: np.ndarray) -> float:
    """A score alone."""
    return 1 / len(frames)


def test_an_empty_batch_is_no_error(plain: LMRewriter, proposer: CritiqueRewriter) -> None:
    assert RewordingRewriter(plain, proposer, ToyWorldVerifier()).rewrite([]) == []


class Commoner:
    """Prefers what says neither jade nor lemon."""

    def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        return [float("jade" not in one) for one, _ in zip(firsts, seconds, strict=True)]


def test_a_choice_can_be_offered_rewordings(plain: LMRewriter, proposer: CritiqueRewriter, gate: IntentGate) -> None:
    reworded = RewordingRewriter(plain, proposer, ToyWorldVerifier())
    choosing = RAPORewriter(gate, others={"plain": plain, "reworded": reworded}, discriminator=Commoner())
    assert choosing.rewrite(PROMPTS[:1]) == reworded.rewrite(PROMPTS[:1])


def test_labels_offers_rewordings_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS))
    lm = {"class_path": "collect.backends.TransformersLM"}
    gate = {"class_path": "collect.intent.IntentGate"}
    plain = {
        "class_path": "collect.rewriters.LMRewriter",
        "init_args": {
            "language_model": {**lm, "init_args": {"pretrained": "models/toy/lm"}},
            "gate": gate,
            "template": "direct",
        },
    }
    proposer = {
        "class_path": "collect.rewriters.CritiqueRewriter",
        "init_args": {"language_model": {**lm, "init_args": {"pretrained": "models/toy/lm", "temperature": 1}}}
        | {"gate": gate},
    }
    parts = {"rewriter": plain, "proposer": proposer, "verifier": {"class_path": "collect.verifiers.ToyWorldVerifier"}}
    candidates = {"plain": plain} | {
        f"reworded_{seed}": {
            "class_path": "collect.rewriters.RewordingRewriter",
            "init_args": {**parts, "seed": seed},
        }
        for seed in (0, 1)
    }
    arguments = [
        f"--prompts={tmp_path / 'prompts.txt'}",
        f"--output={tmp_path / 'out'}",
        "--generator=tests.collect.fakes.FakeGenerator",
        '--verifiers=[{"class_path": "tests.collect.fakes.FakeVerifier"}]',
        "--gate=collect.intent.IntentGate",
        f"--candidates={json.dumps(candidates)}",
        "--metric=fake/clarity",  # the shorter text
        "--min_gap=0.00001",
        "--val_share=0.5",
    ]
    monkeypatch.setattr(sys, "argv", ["collect", "labels", *arguments])
    collect.__main__.main()
    splits = json.loads((tmp_path / "out" / "funnel.json").read_text())["splits"]
    assert sum(counts["pairs"] for counts in splits.values()) == 3 * len(TEXTS)
    assert not any(counts["refused"] for counts in splits.values())
    records = read_records(tmp_path / "out" / "train.jsonl", Choice)
    assert {kind for record in records for kind in record.scores} >= {"plain", "reworded_0"}
