"""VideoPhy, VideoPhy-2, PhyGenBench and Physics-IQ.

Formats as in https://github.com/Hritikbansal/videophy (``README.md``, ``examples/``, ``VIDEOPHY2/README.md``),
https://github.com/OpenGVLab/PhyGenBench (``README.md``, ``PhyGenEval/overall.py``) and
https://github.com/google-deepmind/physics-IQ-benchmark (``README.md``, ``descriptions/``).
"""

from pathlib import Path
from statistics import fmean
from typing import ClassVar

from collect.suites.benchmark import (
    SuitePrompt,
    mean_of_runs,
    read_csv,
    read_json,
    result_files,
    suite_prompt,
    texts_of,
)
from collect.suites.published import RAPO_PHYGENBENCH, RAPO_VIDEOPHY, Scores
from data_modules.text import read_rows

NUM_RUNS = 4  # that the leaderboard of Physics-IQ Verified asks for


class VideoPhy:
    """VideoPhy: one video a caption; its evaluator reads ``videos.csv``.

    Args:
        prompt_file: ``videophy_test_public.csv``, which repeats each caption for every model that was judged, or any
            CSV with a column ``caption``; with a column ``states_of_matter`` the scores are given for each value too.
    """

    name = "VideoPhy"
    published: ClassVar[Scores] = RAPO_VIDEOPHY
    threshold: ClassVar[float] = 0.5  # of a score between 0 and 1

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the captions, each once; the first is ``0000.mp4``."""
        rows = read_csv(self.prompt_file, ["caption"])
        captions = dict.fromkeys(caption for row in rows if (caption := row["caption"].strip()))
        return [
            suite_prompt(caption, f"{self.prompt_file.stem}.txt", line, [f"{line:04d}.mp4"])
            for line, caption in enumerate(captions)
        ]

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read the two files of scores, whose names hold ``sa`` and ``pc``; shares of videos, and of both at once."""
        adherence = self._passed(folder, "*sa*.csv", "semantic adherence")
        physics = self._passed(folder, "*pc*.csv", "physical commonsense")
        scores = _shares(adherence, physics)
        for state, names in self._states().items():
            within = [{name: passed[name] for name in names if name in passed} for passed in (adherence, physics)]
            if all(within):
                scores |= {f"{metric}, {state}": share for metric, share in _shares(*within).items()}
        return scores

    def _passed(self, folder: Path, pattern: str, judged: str) -> dict[str, bool]:
        """Whether each video, by the name of its file, scores high enough."""
        passed: dict[str, bool] = {}
        for path in result_files(folder, pattern, f"the evaluator of {judged}"):
            passed |= {name: score >= self.threshold for name, score in self._scores(path).items()}
        return passed

    def _scores(self, path: Path) -> dict[str, float]:
        """Read rows of video, question and score, without a header."""
        rows = read_rows(path, "the evaluator's results")
        try:
            return {Path(row[0]).name: float(row[-1]) for row in rows}
        except ValueError as error:
            raise ValueError(
                f"{path} has a row without a score ({error}); give a folder with its output only."
            ) from error

    def _states(self) -> dict[str, list[str]]:
        """Names of the videos by the states of matter in their captions; nothing where the file does not say."""
        rows = read_csv(self.prompt_file, ["caption"])
        states = {row["caption"].strip(): row.get("states_of_matter", "") for row in rows}
        names: dict[str, list[str]] = {}
        for asked in self.prompts():
            if state := states[asked.prompt.prompt]:
                names.setdefault(state.replace("_", "-").lower(), []).extend(asked.videos)
        return names


class VideoPhy2(VideoPhy):
    """VideoPhy-2: as VideoPhy, but its evaluator gives marks from 1 to 5, of which 4 and 5 count.

    Args:
        prompt_file: the test split of ``videophysics/videophy2_test`` as CSV, or any CSV with a column ``caption``.
    """

    name = "VideoPhy-2"
    published: ClassVar[Scores] = {}
    threshold: ClassVar[float] = 4.0

    def _scores(self, path: Path) -> dict[str, float]:
        """Read the columns of ``inference.py``."""
        return {Path(row["videopath"]).name: float(row["score"]) for row in read_csv(path, ["videopath", "score"])}


class PhyGenBench:
    """PhyGenBench: one video a prompt.

    Args:
        prompt_file: ``PhyGenBench/prompts.json``.
    """

    name = "PhyGenBench"
    published: ClassVar[Scores] = RAPO_PHYGENBENCH

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompts; the first is ``output_video_1.mp4``."""
        texts = texts_of(read_json(self.prompt_file), "caption", self.prompt_file)
        return [suite_prompt(text, "prompts.txt", line, [f"output_video_{line + 1}.mp4"]) for line, text in texts]

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read what ``overall.py`` writes into ``result``: marks from 0 to 3, as shares of 3."""
        runs = []
        for path in result_files(folder, "*.json", "overall.py"):
            key, rows = f"{path.stem}_average", read_json(path)
            if not isinstance(rows, list) or not all(isinstance(row, dict) and key in row for row in rows):
                raise ValueError(f"{path} is no result of overall.py: its rows must have {key!r}.")
            marks: dict[str, list[float]] = {"PC": []}
            for row in rows:
                marks["PC"].append(row[key] / 3)
                marks.setdefault(f"PC, {str(row['main_category']).lower()}", []).append(row[key] / 3)
            runs.append({name: fmean(values) for name, values in marks.items()})
        return mean_of_runs(runs)


class PhysicsIQ:
    """Physics-IQ: four runs, a folder each.

    The benchmark goes on from a given image or the first seconds of a given video. Videos made from the text alone can
    be scored too, but against a scene that the model has never seen.

    Args:
        prompt_file: ``descriptions/descriptions_original.csv``, or one of ``descriptions/best_practice``.
    """

    name = "Physics-IQ"
    published: ClassVar[Scores] = {}

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the descriptions of the first takes, for which videos are made."""
        rows = read_csv(self.prompt_file, ["scenario", "description", "generated_video_name"])
        first = [row for row in rows if "take-1" in row["scenario"]]
        if not first:
            raise ValueError(f"{self.prompt_file} has no scenario with take-1; give a file of descriptions.")
        return [
            suite_prompt(
                row["description"].strip(),
                f"{self.prompt_file.stem}.txt",
                line,
                [f"run_{run:02d}/{row['generated_video_name']}" for run in range(1, NUM_RUNS + 1)],
            )
            for line, row in enumerate(first)
        ]

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read each run's ``*_metrics.json``; in per cent, averaged over the runs."""
        names = {"final_score_view": "Physics-IQ verified", "final_score_orig": "Physics-IQ original"}
        runs = []
        for path in result_files(folder, "*_metrics.json", "run_physics_iq.py"):
            read = read_json(path)
            scores = {name: 100 * float(read[key]) for key, name in names.items() if key in read}
            if not scores:
                raise ValueError(f"{path} has none of {', '.join(names)}; run run_physics_iq.py again.")
            runs.append(scores)
        return mean_of_runs(runs)


def _shares(adherence: dict[str, bool], physics: dict[str, bool]) -> dict[str, float]:
    """Shares of videos that follow the caption, physics, and both.

    Raises:
        ValueError: if not the same videos were judged for both.
    """
    if adherence.keys() != physics.keys():
        alone = sorted(adherence.keys() ^ physics.keys())
        raise ValueError(f"{len(alone)} videos have one of the two scores only, for instance {alone[0]}; judge them.")
    return {
        "SA": fmean(adherence.values()),
        "PC": fmean(physics.values()),
        "SA and PC": fmean(adherence[name] and physics[name] for name in adherence),
    }
