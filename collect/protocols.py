"""What the loop needs from the outside world. F frames, H x W pixels, RGB."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from data_modules.records import Messages, Prompt


@dataclass(frozen=True)
class RenderRequest:
    """One video to make: the same prompt and seed always give the same video."""

    prompt: str
    seed: int
    path: Path


@dataclass(frozen=True)
class Verdict:
    """One verifier's opinion of one video: named scores in [0, 1], higher is better, and why, in words.

    Args:
        scores: by metric; a verifier names the same metrics for all videos of a prompt.
        critique: what to change, in words; may be empty.
        error: why there is no opinion. Then scores and critique are empty, and nothing is assumed in their place.
    """

    scores: dict[str, float]
    critique: str
    error: str | None = None

    @classmethod
    def failed(cls, reason: str) -> Self:
        """Say that this video could not be judged, without failing the others of its batch."""
        return cls({}, "", reason)


class Generator(Protocol):
    """Text to video, in batches."""

    fingerprint: str  # identifies model and sampling settings, so that renders can be cached by content
    batch_size: int  # videos made at once; the caller records after every so many, and lowers it if memory runs out

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        """Write one video file per request; never leave a half-written file under the requested name."""


class Verifier(Protocol):
    """Raw prompt and video to verdict, in batches."""

    name: str
    ranked: bool  # whether its scores rank candidates, or it only gates and critiques

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge how well each video shows its raw prompt."""


class Answer(str):
    """A language model's answer, a text that says whether it is whole. A plain ``str`` is whole.

    Args:
        text: without the model's reasoning, as far as the model can tell the two apart.
        fault: why the text is not all of an answer, for instance because its tokens ran out; ``None`` where it is.
    """

    fault: str | None

    def __new__(cls, text: str, fault: str | None = None) -> Self:
        """Make a text that says whether it is whole."""
        answer = super().__new__(cls, text)
        answer.fault = fault
        return answer


class LanguageModel(Protocol):
    """Chat messages to text, in batches."""

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        """Answer each conversation; an answer that is not whole is an :class:`Answer` that says why."""


@runtime_checkable
class JSONLanguageModel(LanguageModel, Protocol):
    """A language model that can be held to JSON of a given form."""

    def complete_json(self, conversations: Sequence[Messages], schema: dict[str, Any], *, seed: int) -> list[str]:
        """Answer each conversation with JSON that follows a JSON schema, as far as the model can be held to it."""


class Rewriter(Protocol):
    """Raw prompt to the prompt that is sent to the video model, in batches."""

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt; the raw prompt itself is the answer where nothing better passed the gate."""


class Workers(Protocol):
    """Other processes, each with a whole set of backends of its own."""

    num_workers: int

    def start(self, backends: dict[str, Any], time_limit: float | None) -> dict[str, Any]:
        """Make the backends in every process.

        Args:
            backends: their configuration by the name of the parameter, nested as in YAML.
            time_limit: seconds a backend may take over a batch.

        Returns:
            Backends by the same names whose work is done by the processes.
        """


class Discriminator(Protocol):
    """Two rewrites of a prompt to which of them is better, in batches."""

    def choose(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
        """Probability that the first rewrite of each prompt is the better one, whichever is called the first."""


class Proposer(Protocol):
    """Feedback on a prompt to new prompts, in batches."""

    def propose(
        self,
        prompts: Sequence[Prompt],
        current: Sequence[str],
        critiques: Sequence[str],
        histories: Sequence[Sequence[tuple[str, float, str]]],
        *,
        seed: int,
    ) -> list[list[str]]:
        """Rewrite the best prompt found so far of each search.

        Args:
            prompts: what the user asked for.
            current: the best text so far for each prompt.
            critiques: what was wrong with its video.
            histories: every text tried, its score in [0, 1] and its critique, oldest first.
            seed: of the sampling.

        Returns:
            For each prompt distinct texts that were not tried before, perhaps none.
        """
