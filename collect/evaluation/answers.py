"""What each method of an evaluation answers to every prompt, and what finding the answers took."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from time import perf_counter

from collect.protocols import Generator, Rewriter, Verdict, Verifier
from collect.search.renderer import Renderer, seeds_of
from collect.search.run import PURPOSE, by_name
from collect.search.sspo import Assessment, Candidate, Proposal, Trajectory, champion
from collect.search.store import Sample
from collect.search.trajectories import read_trajectories
from data_modules.records import Prompt, Result, content_id, read_records
from data_modules.schema import check


@dataclass(frozen=True)
class Answer:
    """One method's answer to one prompt.

    Args:
        text: what is sent to the video model.
        num_videos: made to answer once, the answer's own among them.
        seed: of the one video that is the answer; ``None`` if the text is, whatever seed it is rendered with.
    """

    text: str
    num_videos: int = 1
    seed: int | None = None


@dataclass(frozen=True)
class Method:
    """One method's answers, in the order of the prompts, and the seconds a prompt took besides rendering."""

    answers: Sequence[Answer]
    seconds: float = 0.0

    @property
    def num_videos(self) -> list[int]:
        """Videos per prompt."""
        return [answer.num_videos for answer in self.answers]


def ask(rewriter: Rewriter | None, prompts: Sequence[Prompt]) -> Method:
    """Rewrite in one pass, all prompts together."""
    start = perf_counter()
    texts = [prompt.prompt for prompt in prompts] if rewriter is None else rewriter.rewrite(prompts)
    return Method([Answer(text) for text in texts], (perf_counter() - start) / len(prompts))


def earlier_methods(evaluation: Path, prompts: Sequence[Prompt], names: Sequence[str]) -> dict[str, Method]:
    """Read what methods of these names answered in an earlier evaluation.

    Raises:
        FileNotFoundError: if there is no such evaluation.
        ValueError: if one of them was not asked each of the prompts.
    """
    texts: dict[str, dict[str, str]] = {}
    for result in read_records(evaluation / "results.jsonl", Result):
        texts.setdefault(result.method, {})[result.prompt_id] = result.rewrite
    methods = {}
    for name in names:
        answered = texts.get(name, {})
        if not answered:
            continue
        missing = [prompt.prompt for prompt in prompts if prompt.id not in answered]
        if missing:
            raise ValueError(
                f"in {evaluation} {name!r} did not answer {len(missing)} of {len(prompts)} prompts, for instance "
                f"{missing[0]!r}; give an evaluation of the same prompts."
            )
        methods[name] = Method([Answer(answered[prompt.id]) for prompt in prompts])
    return methods


@dataclass(frozen=True)
class Search:
    """A finished collect run: its trajectories in the order of the prompts, and its videos per text.

    A search that was given up has no candidates; its answer is the raw prompt.
    """

    trajectories: Sequence[Trajectory]
    num_seeds: int

    @property
    def last_round(self) -> int:
        """Number of the last round that any prompt was given."""
        return max((candidate.round for search in self.trajectories for candidate in search.candidates), default=0)

    def champions(self, number: int) -> Method:
        """The best texts after a round; each took the search's videos so far and takes one to answer."""
        answers = []
        for search in self.trajectories:
            tried = [candidate for candidate in search.candidates if candidate.round <= number]
            best = champion(tried).text if tried else search.prompt.prompt
            answers.append(Answer(best, 1 + len(tried) * self.num_seeds))
        return Method(answers)

    def rewrites(self) -> Method:
        """The stage-1 prompts that competed from the start; the raw prompt where there was none."""
        rewritten = [
            next((c.text for c in search.candidates if c.proposal.origin == "rewriter"), search.prompt.prompt)
            for search in self.trajectories
        ]
        return Method([Answer(text) for text in rewritten])


def read_search(folder: Path, prompts: Sequence[Prompt], generator: Generator, verifiers: Sequence[Verifier]) -> Search:
    """Read the search of these prompts.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not finished, or was made with other prompts, another generator or other verifiers.
    """
    trajectories, settings = read_trajectories(folder)
    expected = {
        "prompts": content_id(*(prompt.id for prompt in prompts)),
        "generator": generator.fingerprint,
        "verifiers": list(by_name(verifiers)),
    }
    for name, value in expected.items():
        if settings.get(name) != value:
            raise ValueError(
                f"{folder} was made with other {name} ({settings.get(name)}) than the evaluation has ({value}); "
                "give collect run the evaluation's prompts, limit and generator, and the evaluation its verifiers."
            )
    num_seeds = check(settings.get("num_seeds"), int, f"num_seeds in the settings of {folder}", "collect it again.")
    by_id = {search.prompt.id: search for search in trajectories}
    return Search([by_id.get(prompt.id, Trajectory(prompt)) for prompt in prompts], num_seeds)


class BestOfN:
    """Renders of the raw prompts, from which a search's verifiers choose by average rank, as the search does.

    The seeds are the search's own and, after those, further ones of the same kind.

    Args:
        prompts: what was asked.
        counts: videos to render for each prompt.
        renderer: renders them and judges them with the search's verifiers.
    """

    def __init__(self, prompts: Sequence[Prompt], counts: Sequence[int], renderer: Renderer) -> None:
        ranked = [name for name, verifier in renderer.verifiers.items() if verifier.ranked]
        self.samples = [
            [Sample(prompt, prompt.prompt, seed) for seed in seeds_of(prompt, count, PURPOSE)]
            for prompt, count in zip(prompts, counts, strict=True)
        ]
        # Every prompt's first video, then every second one: those that the search made fill whole batches.
        by_turns = [sample for turn in zip_longest(*self.samples) for sample in turn if sample is not None]
        verdicts = dict(zip(by_turns, renderer.judge(by_turns), strict=True))
        self.videos = [
            [Candidate(Proposal(sample.text, "raw"), 0, _ranked(verdicts[sample], ranked)) for sample in samples]
            for samples in self.samples
        ]

    def budgets(self) -> Iterator[list[int]]:
        """Videos per prompt if each may have one, two and so on, up to all that were rendered."""
        for most in range(1, max(map(len, self.samples)) + 1):
            yield [min(most, len(samples)) for samples in self.samples]

    def choose(self, counts: Sequence[int]) -> Method:
        """Answer each prompt with the best of its first so many videos."""
        answers = []
        for samples, videos, count in zip(self.samples, self.videos, counts, strict=True):
            most = max(len(video.assessment.scores) for video in videos[:count])  # fewer where a verifier failed
            best = champion([video for video in videos[:count] if len(video.assessment.scores) == most])
            answers.append(Answer(best.text, count, samples[videos.index(best)].seed))
        return Method(answers)


def _ranked(verdicts: Mapping[str, Verdict], names: Sequence[str]) -> Assessment:
    """The scores that rank one video; a verifier that failed gives none."""
    scores = {f"{name}/{metric}": score for name in names for metric, score in verdicts[name].scores.items()}
    return Assessment(scores, {}, "")
