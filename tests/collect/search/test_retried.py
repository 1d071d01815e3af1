"""Backends that return what they should not: converted where that is plain, else noted, tried again and left out."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collect.backends.checks import checked_proposals, checked_rewrites, checked_verdicts
from collect.protocols import Proposer, Rewriter, Verdict, Verifier
from collect.rewriters import RAPORewriter
from collect.search.retries import BackendError
from collect.search.run import run
from collect.search.schema import DATABASE
from collect.search.trajectories import read_trajectories
from data_modules.records import Messages, Prompt
from tests.collect.fakes import FakeGate, FakeGenerator, FakeProposer, FakeRewriter, FakeVerifier

TEXTS = ["a red box", "a b", "the sea", "milk in tea"]


def search(
    folder: Path,
    verifier: Verifier | None = None,
    rewriter: Rewriter | None = None,
    proposer: Proposer | None = None,
) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(TEXTS))
    run(
        folder / "prompts.txt",
        folder / "out",
        FakeGenerator(),
        [verifier or FakeVerifier()],
        rewriter or FakeRewriter(),
        proposer or FakeProposer(),
        rounds=1,
        num_seeds=1,
    )


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(folder / "out" / DATABASE)
    found = database.execute(query).fetchall()
    database.close()
    return found


class Judges(FakeVerifier):
    """Gives the same verdict on everything."""

    def __init__(self, verdict: Any) -> None:
        super().__init__()
        self.verdict = verdict

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        return [self.verdict for _ in videos]


HALVES = [
    np.float32(0.5),
    np.float64(0.5),
    np.array(0.5),
    np.array([0.5]),
    torch.tensor(0.5, requires_grad=True),
    torch.tensor([0.5], dtype=torch.bfloat16),
    Fraction(1, 2),
]


def test_numbers_of_any_library_are_kept_as_plain_ones(tmp_path: Path) -> None:
    scores: Any = {str(number): half for number, half in enumerate(HALVES)} | {"whole": np.int64(1)}
    search(tmp_path, Judges(Verdict(scores, np.str_("words"))))
    [(found, critique, error)] = set(rows(tmp_path, "SELECT scores, critique, error FROM verdicts"))
    assert json.loads(found) == {str(number): 0.5 for number in range(len(HALVES))} | {"whole": 1.0}
    assert (critique, error) == ("words", None)


NO_VERDICTS: list[tuple[Any, str]] = [
    (None, r"judge\[0\] is no Verdict, got None"),
    ({"alignment": 0.5}, r"judge\[0\] is no Verdict"),
    (Verdict({"alignment": None}, ""), r"scores\['alignment'\]: it is no number, got None"),  # type: ignore[dict-item]
    (Verdict({"alignment": b"0.5"}, ""), "it is no number, got b'0.5'"),  # type: ignore[dict-item]
    (Verdict({"alignment": "0.5"}, ""), "it is no number, got '0.5'"),  # type: ignore[dict-item]
    (Verdict({"alignment": 0.5j}, ""), "it is no number"),  # type: ignore[dict-item]
    (Verdict({"alignment": float("nan")}, ""), r"scores must be in \[0, 1\], got nan"),
    (Verdict({"alignment": torch.tensor(7.0)}, ""), r"scores must be in \[0, 1\]"),  # type: ignore[dict-item]
    (Verdict({"alignment": np.zeros(2)}, ""), "it is no number"),  # type: ignore[dict-item]
    (Verdict({}, "no score"), "scores is empty"),
    (Verdict([0.5], ""), "valid dictionary"),  # type: ignore[arg-type]
    (Verdict({1: 0.5}, ""), "valid string"),  # type: ignore[dict-item]
    (Verdict({"alignment": 0.5}, 7), "critique: .*valid string, got 7"),  # type: ignore[arg-type]
    (Verdict({"alignment": 0.5}, None), "critique: .*valid string, got None"),  # type: ignore[arg-type]
    (Verdict({"alignment": 0.5}, "half \ud83e"), "critique: it is no valid Unicode text"),
]


@pytest.mark.parametrize(("verdict", "message"), NO_VERDICTS)
def test_what_is_no_verdict_is_refused(verdict: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_verdicts(Judges(verdict), [verdict], 1, ranked=True)


def test_a_verifier_that_always_gives_none_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"verifier fake failed 3 times in a row.*Judges.judge\[0\] is no Verdict"):
        search(tmp_path, Judges(None))
    assert rows(tmp_path, "SELECT COUNT(*) FROM verdicts") == [(0,)]


def test_a_verifier_that_names_other_metrics_for_one_text_loses_that_text_only(tmp_path: Path) -> None:
    class Fickle(FakeVerifier):
        def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
            return [
                Verdict({"mood": 0.5}, "") if "sea here" in video.read_text() else verdict
                for video, verdict in zip(videos, super().judge(prompts, videos), strict=True)
            ]

    for _ in range(2):  # and so it stays when it is started again
        search(tmp_path, Fickle())
        searches, _ = read_trajectories(tmp_path / "out")
        failed = [failure for found in searches for failure in found.failures]
        assert [failure.text for failure in failed] == ["the sea here"]
        assert "named the metrics mood where it had named alignment, clarity" in str(failed[0].assessment.error)


Answers = Callable[[Sequence[Prompt]], Any]


class Writes:
    """A rewriter that returns what it is told to."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.answer(prompts)  # type: ignore[no-any-return]


class Proposes:
    """A proposer that returns what it is told to."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        return self.answer(prompts)  # type: ignore[no-any-return]


def fail(_: Sequence[Prompt]) -> Any:
    raise RuntimeError("out of order \ud83e")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "valid list, got None"),
        ([None, None], r"rewrite\[0\]: .*valid string, got None"),
        (["x", 7], r"rewrite\[1\]: .*valid string, got 7"),
        (["x"], "returned 1 rewrites for 2 prompts"),
        ("ab", "valid list, got 'ab'"),
        (["x", " "], r"rewrite\[1\]: it is empty"),
        (["x", "\ud83e"], "no valid Unicode text"),
    ],
)
def test_what_are_no_rewrites_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_rewrites(FakeRewriter(), given, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "valid list, got None"),
        ([None, []], r"propose\[0\]: .*valid list, got None"),
        (["text", "text"], r"propose\[0\]: .*valid list, got 'text'"),
        ([["x"], [None]], r"propose\[1\]\[0\]: .*valid string, got None"),
        ([["x"], [""]], "it is empty"),
        ([["x"]], "returned 1 lists for 2 prompts"),
    ],
)
def test_what_are_no_proposals_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_proposals(FakeProposer(), given, 2)


@pytest.mark.parametrize(
    ("answer", "message"), [(lambda prompts: "abcd"[: len(prompts)], "valid list, got 'a"), (fail, "out of order")]
)
def test_a_rewriter_that_always_fails_stops_the_run_whenever_it_is_started(
    answer: Answers, message: str, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(BackendError, match=f"rewriter Writes failed 3 times in a row.*{message}"):
            search(tmp_path, rewriter=Writes(answer))
    assert set(rows(tmp_path, "SELECT backend FROM failures")) == {("rewriter Writes",)}


@pytest.mark.parametrize(
    ("answer", "message"),
    [(lambda prompts: [[None] for _ in prompts], "valid string, got None"), (fail, "out of order")],
)
def test_a_proposer_that_always_fails_stops_the_run_and_what_was_rendered_is_gone_on_with(
    answer: Answers, message: str, tmp_path: Path
) -> None:
    broken = type("FakeProposer", (Proposes,), {})(answer)  # of the name of the one that takes its place
    for _ in range(2):
        with pytest.raises(BackendError, match=f"proposer FakeProposer failed 3 times in a row.*{message}"):
            search(tmp_path / "broken", proposer=broken)
    assert rows(tmp_path / "broken", "SELECT COUNT(*) FROM renders") == [(8,)]
    search(tmp_path / "broken")
    search(tmp_path / "unbroken")
    assert read_trajectories(tmp_path / "broken" / "out") == read_trajectories(tmp_path / "unbroken" / "out")


def test_one_bad_prompt_is_left_out_by_rewriter_and_proposer_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def look(prompts: Sequence[Prompt]) -> None:
        if any(prompt.prompt == "the sea" for prompt in prompts):
            raise ValueError("no word for the sea")

    class Shy(FakeRewriter):
        def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
            look(prompts)
            return super().rewrite(prompts)

    class Silent(FakeProposer):
        def propose(self, prompts: Sequence[Prompt], *args: Any, seed: int) -> list[list[str]]:  # type: ignore[override]
            look(prompts)
            return super().propose(prompts, *args, seed=seed)

    search(tmp_path, rewriter=Shy(), proposer=Silent())
    searches, _ = read_trajectories(tmp_path / "out")
    counts = {found.prompt.prompt: len(found.candidates) for found in searches}
    assert counts == {"a red box": 4, "a b": 4, "the sea": 1, "milk in tea": 4}
    errors = rows(tmp_path, "SELECT backend, error FROM failures ORDER BY id")
    names = ["rewriter Shy"] * 2 + ["proposer Silent"] * 2
    assert errors == [(name, "ValueError: no word for the sea") for name in names]
    assert "1 of 4 prompts stay as they are" in caplog.text
    assert "1 of 4 searches have no proposals" in caplog.text


class Says:
    """A language model that gives the prompt back with a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        return [f"{messages[-1]['content'].rsplit(': ', 1)[1]} {self.word}" for messages in conversations]


@pytest.mark.parametrize("given", [[float("nan")], [None], ["0.5"], [1.5], None, [0.5, 0.5]], ids=repr)
def test_a_discriminator_must_answer_with_probabilities(given: Any) -> None:
    class Chooses:
        def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
            return given  # type: ignore[no-any-return]

    gate: Any = FakeGate()
    rapo = RAPORewriter(gate, refactorer=Says("here"), direct=Says("there"), discriminator=Chooses())
    with pytest.raises(ValueError, match=r"Chooses\.choose"):
        rapo.rewrite([Prompt("0", "a red box")])
