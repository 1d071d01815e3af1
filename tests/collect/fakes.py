"""Stand-ins for slow backends. They import nothing heavy, so that a subprocess starts in no time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collect.protocols import RenderRequest, Verdict
from data_modules.records import Prompt


class FakeGenerator:
    """Writes the prompt and seed as the video."""

    fingerprint = "fake"

    def __init__(self, batch_size: int = 3) -> None:
        self.batch_size = batch_size
        self.made: list[RenderRequest] = []

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        for request in requests:
            request.path.parent.mkdir(exist_ok=True)
            request.path.write_text(f"{request.prompt}|{request.seed}")
        self.made.extend(requests)


class FakeVerifier:
    """Likes the letter e and short prompts; reads what the fake generator wrote."""

    def __init__(self, name: str = "fake", ranked: bool = True, ceiling: float = 12.0) -> None:
        self.name = name
        self.ranked = ranked
        self.ceiling = ceiling

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        texts = [video.read_text().split("|")[0] for video in videos]
        return [
            Verdict(
                {"alignment": min(1.0, text.count("e") / self.ceiling), "clarity": 1 / len(text)},
                f"{len(text)} letters.",
            )
            for text in texts
        ]


class HashVerifier:
    """Has an opinion of every file that nobody can foresee: a hash of its content."""

    name, ranked = "vlm", True

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        hashes = [int(hashlib.sha256(video.read_bytes()).hexdigest()[:8], 16) / 2**32 for video in videos]
        return [Verdict({"alignment": value}, "It is not red.") for value in hashes]


class FakeRewriter:
    """Adds a word; leaves prompts that begin with x alone."""

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return [p.prompt if p.prompt.startswith("x") else f"{p.prompt} here" for p in prompts]


class FakeAlternative:
    """Says the same with a word in front; what begins with x as the rewriter does."""

    def __init__(self, word: str = "see") -> None:
        self.word = word

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        return [p.prompt if p.prompt.startswith("x") else f"{self.word} {p.prompt}" for p in prompts]


class FakeProposer:
    """Adds one of two words to the best text so far."""

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        return [[f"{text} e{seed}", f"{text} no"] for text in current]


@dataclass(frozen=True)
class FakeReport:
    """What the fake gate says of a text."""

    lost: bool
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not (self.lost or self.problems)

    @property
    def kept_share(self) -> float:
        return float(not self.lost)


class FakeGate:
    """Refuses texts with the word lost."""

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[FakeReport]:
        return [FakeReport("lost" in text) for _, text in pairs]
