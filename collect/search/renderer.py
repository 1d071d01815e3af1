"""Where texts become judged videos: each is rendered and judged once, in batches, and kept."""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import fsum
from pathlib import Path

from collect.backends.checks import checked_verdicts
from collect.protocols import Generator, RenderRequest, Verdict, Verifier
from collect.search.retries import BackendError, Retries
from collect.search.sspo import Assessment, mean
from collect.search.store import Render, Sample, Store
from data_modules.progress import Progress
from data_modules.records import Prompt, content_id

logger = logging.getLogger(__name__)

UNFINISHED = ".rendering-"  # how the folders of calls begin, whose videos are not yet in place
MAX_WITHOUT_VERDICT = 8  # videos in a row that a verifier has no verdict on
MIN_PROMPTS = 3  # that these belong to, so that one bad prompt is not taken for a bad verifier


def seeds_of(prompt: Prompt, num_seeds: int, purpose: str) -> list[int]:
    """Derive a prompt's seeds from its id, so that a restart finds them again and no two purposes share them."""
    return [int(content_id(purpose, prompt.id, str(index))[:8], 16) for index in range(num_seeds)]


class Renderer:
    """Renders and judges, batch by batch, committing each as it is made.

    Batches are cut from the list of samples in order, whether or not some were made before: a resumed run sees the same
    batches as an unbroken one.

    A call of the generator writes into a folder of its own, and its videos are put in place together when it has
    returned in time. A run killed in the middle of a batch renders the whole batch again, and a call that was given up
    cannot leave anything under a right name later.

    What a backend fails at twice gets a failed verdict instead (see :class:`collect.search.retries.Retries`); a run
    that is started again asks for it again. A verifier that has no verdict on eight videos in a row, of at least three
    prompts, stops the run: it would have none on the others either.

    Args:
        store: where videos and verdicts are kept.
        generator: makes the videos.
        verifiers: judge them, by the name their verdicts are kept under.
        num_seeds: videos per text in :meth:`assess`.
        purpose: what the seeds of :meth:`assess` are drawn for.
        time_limit: seconds the generator or a verifier may take over a batch; ``None`` waits for ever.
        num_workers: batches in work at once; more than one needs backends that run elsewhere.
    """

    def __init__(
        self,
        store: Store,
        generator: Generator,
        verifiers: Mapping[str, Verifier],
        num_seeds: int,
        purpose: str,
        time_limit: float | None = None,
        num_workers: int = 1,
    ) -> None:
        self.store = store
        self.generator = generator
        self.verifiers = verifiers
        self.num_seeds = num_seeds
        self.purpose = purpose
        self.num_workers = num_workers
        self._metrics: dict[tuple[str, str], list[str]] = {}  # by verifier and prompt id
        self._failed: set[tuple[Render, str]] = set()  # verdicts that were asked for in vain in this run
        self._without_verdict: dict[str, list[tuple[str, str]]] = {name: [] for name in verifiers}
        for unfinished in store.videos.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished)
        self._make: Retries[Render, Path] = Retries(
            f"generator {type(generator).__name__}", self._generate, _prompt_id, self._note, time_limit
        )
        self._judge: dict[str, Retries[Render, Verdict]] = {
            name: Retries(f"verifier {name}", partial(self._ask, name), _prompt_id, self._note, time_limit)
            for name in verifiers
        }

    def assess(self, candidates: Sequence[tuple[Prompt, str]]) -> list[Assessment]:
        """Render each text with the seeds of its prompt and sum up what the verifiers say."""
        samples = [
            Sample(prompt, text, seed)
            for prompt, text in candidates
            for seed in seeds_of(prompt, self.num_seeds, self.purpose)
        ]
        verdicts = self.judge(samples)
        return [
            self._sum_up(prompt, verdicts[index * self.num_seeds : (index + 1) * self.num_seeds])
            for index, (prompt, _) in enumerate(candidates)
        ]

    def judge(self, samples: Sequence[Sample]) -> list[dict[str, Verdict]]:
        """Render what is not rendered and judge what is not judged; verdicts by verifier for each sample.

        Raises:
            BackendError: if the generator or a verifier fails three times in a row or takes too long, or a verifier
                has no verdict on eight videos in a row.
        """
        renders = [Render(sample, self.video(sample)) for sample in dict.fromkeys(samples)]
        size = self.generator.batch_size
        batches = [renders[begin : begin + size] for begin in range(0, len(renders), size)]
        judged: dict[Sample, dict[str, Verdict]] = {}
        with Progress(total=len(renders), desc="rendering and judging", unit="video", disable=not renders) as progress:
            for batch, verdicts in zip(batches, self._at_once(batches), strict=True):
                judged |= verdicts
                progress.update(len(batch))
        for name in self.verifiers:
            failed = [render for render in renders if judged[render.sample][name].error is not None]
            if failed:
                logger.warning("%d of %d videos have no verdict of %s.", len(failed), len(renders), name)
                self.store.add_verdicts(failed, name, [judged[render.sample][name] for render in failed])
        return [judged[sample] for sample in samples]

    def video(self, sample: Sample) -> RenderRequest:
        """Where the video of a sample is."""
        return self.store.request(sample, self.generator.fingerprint)

    def _at_once(self, batches: Sequence[Sequence[Render]]) -> Iterator[dict[Sample, dict[str, Verdict]]]:
        if self.num_workers == 1:
            yield from map(self._batch, batches)
            return
        with ThreadPoolExecutor(self.num_workers) as pool:
            try:
                yield from pool.map(self._batch, batches)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _batch(self, renders: Sequence[Render]) -> dict[Sample, dict[str, Verdict]]:
        known = {(render, name): self._known(render, name) for render in renders for name in self.verifiers}
        for (render, name), verdict in known.items():
            if verdict is not None:
                self._remember_metrics(name, render, verdict)
        lost = {s for s in renders if self.verifiers and all((v := known[s, n]) and v.error for n in self.verifiers)}
        errors = self._render([render for render in renders if render not in lost])
        there = [render for render in renders if render not in lost and render.request not in errors]
        for name in self.verifiers:
            known |= {
                (render, name): Verdict.failed(errors[render.request]) for render in renders if render.request in errors
            }
            unknown = [render for render in there if known[render, name] is None]
            if not unknown:
                continue
            verdicts, failures = self._judge[name](unknown)
            known |= {(render, name): verdict for render, verdict in verdicts.items()}
            known |= {(render, name): Verdict.failed(reason) for render, reason in failures.items()}
            self.store.add_verdicts(list(verdicts), name, list(verdicts.values()))
            self._check_verdicts(name, {render: known[render, name] for render in unknown})
        self._failed |= {key for key, verdict in known.items() if verdict and verdict.error}
        return {
            render.sample: {name: verdict for name in self.verifiers if (verdict := known[render, name])}
            for render in renders
        }

    def _known(self, render: Render, name: str) -> Verdict | None:
        """Look up a verdict; one that failed in an earlier run is asked for again."""
        verdict = self.store.verdict(render, name)
        return None if verdict and verdict.error and (render, name) not in self._failed else verdict

    def _check_verdicts(self, name: str, verdicts: Mapping[Render, Verdict | None]) -> None:
        """Stop the run once a verifier has had no verdict on anything for a while."""
        failed = self._without_verdict[name]
        for render, verdict in verdicts.items():
            if verdict is None or verdict.error is None:
                failed.clear()
            else:
                failed.append((_prompt_id(render), verdict.error))
        if len(failed) >= MAX_WITHOUT_VERDICT and len({prompt for prompt, _ in failed}) >= MIN_PROMPTS:
            raise BackendError(
                f"verifier {name} had no verdict on {len(failed)} videos in a row, the last time for {failed[-1][1]}. "
                "What was made is kept: mend it and start the same command again."
            )

    def _render(self, renders: Sequence[Render]) -> dict[RenderRequest, str]:
        """Make the videos that are not there; say why some are still not."""
        missing = [
            render for render in {render.request: render for render in renders}.values() if not self._is_there(render)
        ]
        if not missing:
            return {}
        for render in missing:
            render.request.path.unlink(missing_ok=True)  # damaged: it must not pass for what is made now
        finished, errors = self._make(missing)
        for render, path in finished.items():
            path.replace(render.request.path)
        for folder in {path.parent for path in finished.values()}:
            shutil.rmtree(folder)
        self.store.add_renders([render.request for render in finished], self.generator.fingerprint)
        return {render.request: reason for render, reason in errors.items()}

    def _is_there(self, render: Render) -> bool:
        return self.store.has_render(render.request, self.generator.fingerprint)

    def _generate(self, renders: Sequence[Render]) -> list[Path]:
        """Write videos into a folder of this call's own."""
        if self._make.size is not None:
            self.generator.batch_size = min(self._make.size, self.generator.batch_size)
        self.store.videos.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.store.videos))
        requests = [replace(render.request, path=folder / render.request.path.name) for render in renders]
        try:
            self.generator.generate(requests)
            for request in requests:
                if not request.path.is_file():
                    raise ValueError(f"it wrote no {request.path} for {request.prompt!r}")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return [request.path for request in requests]

    def _ask(self, name: str, renders: Sequence[Render]) -> list[Verdict]:
        verifier = self.verifiers[name]
        verdicts = verifier.judge([s.sample.prompt for s in renders], [s.request.path for s in renders])
        checked = checked_verdicts(verifier, verdicts, len(renders), verifier.ranked)
        for render, verdict in zip(renders, checked, strict=True):
            self._remember_metrics(name, render, verdict)
        return checked

    def _remember_metrics(self, name: str, render: Render, verdict: Verdict) -> None:
        """Hold a verifier to the metrics that it named first for a prompt: candidates are ranked by all of them."""
        if verdict.error is not None:
            return
        first = self._metrics.setdefault((name, _prompt_id(render)), sorted(verdict.scores))
        if sorted(verdict.scores) != first:
            raise ValueError(
                f"it named the metrics {', '.join(verdict.scores) or 'none'} where it had named {', '.join(first)} for "
                "another video of the same prompt"
            )

    def _note(self, backend: str, renders: Sequence[Render], error: str) -> None:
        logger.warning("%s failed at %d videos with %s.", backend, len(renders), error)
        self.store.add_failure(backend, [render.request for render in renders], error)

    def _sum_up(self, prompt: Prompt, verdicts: Sequence[Mapping[str, Verdict]]) -> Assessment:
        """Average over seeds; the words are those on the worst video.

        Candidates are compared on the same seeds, so one video without a verdict that ranks leaves its text without
        an assessment. Verifiers that do not rank stay silent where others do, unless the prompt carries a task of its
        own; they are averaged over the videos they judged.
        """
        ranked = [name for name, verifier in self.verifiers.items() if verifier.ranked]
        others = [name for name in self.verifiers if name not in ranked]
        failed = [f"{name}: {row[name].error}" for row in verdicts for name in ranked or others if row[name].error]
        if failed:
            return Assessment({}, {}, "", error=failed[0])
        worst = min(verdicts, key=lambda row: fsum(score for name in ranked for score in row[name].scores.values()))
        speaking = self.verifiers if prompt.task or not ranked else ranked
        return Assessment(
            scores=self._average(ranked, verdicts),
            observations=self._average(others, verdicts),
            critique=" ".join(worst[name].critique for name in speaking if worst[name].critique),
        )

    def _average(self, names: Sequence[str], verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for row in verdicts:
            for name in names:
                for metric, score in row[name].scores.items():
                    values.setdefault(f"{name}/{metric}", []).append(score)
        return {metric: mean(scores) for metric, scores in values.items()}


def _prompt_id(render: Render) -> str:
    return render.sample.prompt.id
