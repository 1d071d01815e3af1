"""Where texts become judged videos: each is rendered and judged once, in batches, and kept."""

from collections.abc import Mapping, Sequence
from math import fsum

from tqdm import tqdm

from collect.protocols import Generator, RenderRequest, Verdict, Verifier
from collect.sspo import Assessment, mean
from collect.store import Store, Take
from data_modules.records import Prompt, content_id


def seeds_of(prompt: Prompt, num_seeds: int, purpose: str) -> list[int]:
    """Derive a prompt's seeds from its id, so that a restart finds them again and no two purposes share them."""
    return [int(content_id(purpose, prompt.id, str(index))[:8], 16) for index in range(num_seeds)]


class Studio:
    """Renders and judges, batch by batch, committing each as it is made.

    Batches are cut from the list of takes in order, whether or not some were made before: a resumed run sees the same
    batches as an unbroken one.

    Args:
        store: where videos and verdicts are kept.
        generator: makes the videos.
        verifiers: judge them, by the name their verdicts are kept under.
        num_seeds: videos per text in :meth:`assess`.
        purpose: what the seeds of :meth:`assess` are drawn for.
    """

    def __init__(
        self, store: Store, generator: Generator, verifiers: Mapping[str, Verifier], num_seeds: int, purpose: str
    ) -> None:
        self.store = store
        self.generator = generator
        self.verifiers = verifiers
        self.num_seeds = num_seeds
        self.purpose = purpose

    def assess(self, candidates: Sequence[tuple[Prompt, str]]) -> list[Assessment]:
        """Render each text with the seeds of its prompt and sum up what the verifiers say."""
        takes = [
            Take(prompt, text, seed)
            for prompt, text in candidates
            for seed in seeds_of(prompt, self.num_seeds, self.purpose)
        ]
        verdicts = self.judge(takes)
        return [
            self._sum_up(prompt, verdicts[index * self.num_seeds : (index + 1) * self.num_seeds])
            for index, (prompt, _) in enumerate(candidates)
        ]

    def judge(self, takes: Sequence[Take]) -> list[dict[str, Verdict]]:
        """Render what is not rendered and judge what is not judged; verdicts by verifier for each take.

        Raises:
            ValueError: if the generator or a verifier does not answer every request.
        """
        distinct = list(dict.fromkeys(takes))
        judged: dict[Take, dict[str, Verdict]] = {}
        with tqdm(total=len(distinct), desc="rendering and judging", unit="video", disable=not distinct) as progress:
            for begin in range(0, len(distinct), self.generator.batch_size):
                batch = distinct[begin : begin + self.generator.batch_size]
                requests = [self.store.request(take, self.generator.fingerprint) for take in batch]
                self._render(requests)
                verdicts = [self._verdicts(name, batch, requests) for name in self.verifiers]
                for take, row in zip(batch, zip(*verdicts, strict=True), strict=True):
                    judged[take] = dict(zip(self.verifiers, row, strict=True))
                progress.update(len(batch))
        return [judged[take] for take in takes]

    def video(self, take: Take) -> RenderRequest:
        """Where the video of a take is."""
        return self.store.request(take, self.generator.fingerprint)

    def _render(self, requests: Sequence[RenderRequest]) -> None:
        missing = [r for r in dict.fromkeys(requests) if not self.store.has_render(r)]
        if not missing:
            return
        self.generator.generate(missing)
        for request in missing:
            if not request.path.is_file():
                raise ValueError(f"{type(self.generator).__name__} wrote no {request.path} for {request.prompt!r}.")
        self.store.add_renders(missing, self.generator.fingerprint)

    def _verdicts(self, name: str, takes: Sequence[Take], requests: Sequence[RenderRequest]) -> list[Verdict]:
        known = [self.store.verdict(take, request, name) for take, request in zip(takes, requests, strict=True)]
        if all(known):
            return [verdict for verdict in known if verdict]
        verdicts = self.verifiers[name].judge([take.prompt for take in takes], [r.path for r in requests])
        if len(verdicts) != len(takes):
            raise ValueError(f"verifier {name} gave {len(verdicts)} verdicts for {len(takes)} videos.")
        self.store.add_verdicts(takes, requests, name, verdicts)
        return verdicts

    def _sum_up(self, prompt: Prompt, verdicts: Sequence[Mapping[str, Verdict]]) -> Assessment:
        """Average over seeds; the words are those on the worst video.

        Verifiers that do not rank stay silent where others do, unless the prompt carries a task of its own.
        """
        ranked = [name for name, verifier in self.verifiers.items() if verifier.ranked]
        others = [name for name in self.verifiers if name not in ranked]
        worst = min(verdicts, key=lambda row: fsum(score for name in ranked for score in row[name].scores.values()))
        speaking = self.verifiers if prompt.task or not ranked else ranked
        return Assessment(
            scores=self._average(ranked, verdicts),
            observations=self._average(others, verdicts),
            critique=" ".join(worst[name].critique for name in speaking if worst[name].critique),
        )

    def _average(self, names: Sequence[str], verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, float]:
        return {
            f"{name}/{metric}": mean([by_name[name].scores[metric] for by_name in verdicts])
            for name in names
            for metric in verdicts[0][name].scores
        }
