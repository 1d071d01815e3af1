"""T2V-CompBench, EvalCrafter and FETV: videos numbered in the order of the prompts.

Formats as in https://github.com/KaiyueSun98/T2V-CompBench (``README.md``, ``MLLM_eval/eval_consistent_attr.py``),
https://github.com/evalcrafter/EvalCrafter (``README.md``, ``eval_from_metrics.py``),
https://github.com/llyx97/FETV and https://github.com/llyx97/FETV_eval (``UMT/README.md``, ``auto_eval.py``).
"""

import re
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from collect.suites.benchmark import (
    SuitePrompt,
    mean_of_runs,
    numbered_lines,
    prompt_files,
    read_json,
    result_files,
    suite_prompt,
    texts_of,
)
from collect.suites.published import RAPO_EVALCRAFTER, RAPO_T2VCOMPBENCH, Scores
from data_modules.text import read_rows, read_text

# What the name of a result file says, and what the category is called in papers.
CATEGORIES = {
    "consistent_attr": "consistent attribute",
    "dynamic_attr": "dynamic attribute",
    "spatial": "spatial relationship",
    "motion_binding": "motion binding",
    "action_binding": "action binding",
    "interaction": "object interactions",
    "numeracy": "numeracy",
}


class T2VCompBench:
    """T2V-CompBench: a folder of videos for each category, one video a prompt.

    Args:
        prompt_file: the folder ``prompts`` of the benchmark with a text file for each category, or one of the files.
    """

    name = "T2V-CompBench"
    published: ClassVar[Scores] = RAPO_T2VCOMPBENCH

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompts; ``1_consistent_attr.txt`` gives ``consistent_attr/0001.mp4`` and so on."""
        found = []
        for file in prompt_files(self.prompt_file):
            category = file.stem.lstrip("0123456789_")
            found += [
                suite_prompt(text, file.name, line, [f"{category}/{number:04d}.mp4"])
                for number, (line, text) in enumerate(numbered_lines(file), 1)
            ]
        return found

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read the closing row of each ``*_score.csv``; in [0, 1]."""
        runs = []
        for path in result_files(folder, "*_score.csv", "the evaluator"):
            category = next((name for part, name in CATEGORIES.items() if part in path.stem), None)
            rows = read_rows(path, "the evaluator's results")
            if category is None or not rows or not rows[-1][0].startswith("score"):
                raise ValueError(
                    f"{path} is no finished result: its name must hold one of {', '.join(CATEGORIES)} and its last "
                    "row must be the score; run the evaluator again."
                )
            runs.append({category: float(rows[-1][-1])})
        return mean_of_runs(runs)


class EvalCrafter:
    """EvalCrafter: one video a prompt.

    Args:
        prompt_file: ``prompt700.txt``.
    """

    name = "EvalCrafter"
    published: ClassVar[Scores] = RAPO_EVALCRAFTER

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompts; the first is ``0000.mp4``."""
        return [
            suite_prompt(text, self.prompt_file.name, line, [f"{number:04d}.mp4"])
            for number, (line, text) in enumerate(numbered_lines(self.prompt_file))
        ]

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read the ``Results:`` line of ``final_result.txt``."""
        runs = []
        for path in result_files(folder, "final_result.txt", "eval_from_metrics.py"):
            line = re.search(r"Results: (.+)", read_text(path, "the evaluator's results"))
            scores = re.findall(r"([A-Z][A-Za-z -]*?) (-?\d+(?:\.\d+)?)", line.group(1)) if line else []
            if not scores:
                raise ValueError(f"{path} has no line of results; run eval_from_metrics.py again.")
            runs.append({name.lower(): float(score) for name, score in scores})
        return mean_of_runs(runs)


class FETV:
    """FETV: one video a prompt, named by the number of the prompt.

    Args:
        prompt_file: ``fetv_data.json``.
    """

    name = "FETV"
    published: ClassVar[Scores] = {}

    def __init__(self, prompt_file: Path) -> None:
        self.prompt_file = prompt_file

    def prompts(self) -> list[SuitePrompt]:
        """Read the prompts; the first is ``0.mp4``."""
        texts = texts_of(read_json(self.prompt_file, by_line=True), "prompt", self.prompt_file)
        return [suite_prompt(text, "fetv_data.txt", line, [f"{line}.mp4"]) for line, text in texts]

    def read_scores(self, folder: Path) -> dict[str, float]:
        """Read each ``METRIC/auto_eval_results_MODEL.json``, a score for every video; their mean."""
        runs = []
        for path in result_files(folder, "auto_eval_results_*.json", "auto_eval.py"):
            scores = read_json(path)
            if not isinstance(scores, dict) or not scores:
                raise ValueError(f"{path} must give each prompt's number a score.")
            runs.append({path.parent.name: fmean(float(score) for score in scores.values())})
        return mean_of_runs(runs)
