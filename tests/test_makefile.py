"""Rounds: the Makefile gives each its own configs and folders, and leaves round 1 as it is."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jsonargparse import capture_parser

import collect.__main__

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What make needs to plan: itself, the configs and an environment it takes for current."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def make(clone: Path, *arguments: str) -> list[str]:
    """Run make without the variables of a make that runs these tests; return what it printed."""
    given = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(given, cwd=clone, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def commands(lines: list[str]) -> list[str]:
    """The programs of ours that would run."""
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in joined if line.startswith(".venv/bin/python")]


def test_the_first_of_two_rounds_is_what_one_round_is(clone: Path) -> None:
    one, two = commands(make(clone, "-n", "train")), commands(make(clone, "-n", "train", "ROUNDS=2"))
    assert two[: len(one)] == one
    assert one[-1].startswith(".venv/bin/python -m collect evaluate --config configs/toy/evaluate.yaml")
    assert "--earlier outputs/toy/evaluate" in two[-1]
    assert not any("round2" in command for command in one)


def test_a_stage_can_be_asked_for_alone(clone: Path) -> None:
    assert not any("fit" in command for command in commands(make(clone, "-n", "train", "STAGE=pairs")))


@pytest.fixture
def second_round(clone: Path) -> Path:
    """The configs of round 2, where round 1 has run on 240 prompts, 100 of them searched."""
    prompts = clone / "outputs/toy/data/prompts/train.jsonl"
    prompts.parent.mkdir(parents=True)
    prompts.write_text("".join(f"{number}\n" for number in range(1, 241)))
    (clone / "outputs/toy/data/captions.jsonl").touch()
    configs = Path("outputs/toy/round2/configs")
    stages = [path.name for path in (clone / "configs/toy").glob("stage[23]_*.yaml")]
    make(clone, "ROUND=2", *(str(configs / name) for name in (*stages, "evaluate.yaml")))
    return clone / configs


def values(node: object) -> list[object]:
    """Every leaf of a YAML document."""
    if isinstance(node, dict):
        return [leaf for child in node.values() for leaf in values(child)]
    if isinstance(node, list):
        return [leaf for child in node for leaf in values(child)]
    return [node]


def test_a_round_searches_the_next_prompts_with_the_rewriter_just_tuned(second_round: Path) -> None:
    collected = yaml.safe_load((second_round / "stage2_collect.yaml").read_text())
    assert collected["prompts"] == "outputs/toy/round2/prompts.jsonl"
    first, *_ = (second_round.parent / "prompts.jsonl").read_text().splitlines()
    assert int(first) == collected["limit"] + 1
    paths = {str(value) for value in values(collected) if str(value).startswith("outputs/toy/")}
    assert {path for path in paths if "round2" not in path} == {"outputs/toy/stage3_dpo/hf"}


def test_a_round_writes_nowhere_but_in_its_folder(second_round: Path) -> None:
    read = {"outputs/toy/stage1_rewriter/hf", "outputs/toy/evaluate_search"}
    for config in second_round.glob("*.yaml"):
        before = yaml.safe_load((second_round.parents[3] / "configs/toy" / config.name).read_text())
        after = yaml.safe_load(config.read_text())
        for old, new in zip(values(before), values(after), strict=True):
            if old != new:
                assert "round2" in str(new) or new == "outputs/toy/stage3_dpo/hf", (config.name, old, new)
            elif str(old).startswith("outputs/toy/"):
                assert old in read or str(old).startswith(("outputs/toy/data", "outputs/toy/stage1_")), config.name


def test_records_of_the_rounds_before_are_added_to_what_a_round_mines(second_round: Path) -> None:
    clone = second_round.parents[3]
    files = [Path(folder) / f"{split}.jsonl" for folder in ("sft", "preference") for split in ("train", "val")]
    for file in files:
        before = clone / "outputs/toy/stage2_mine" / file
        before.parent.mkdir(parents=True, exist_ok=True)
        before.write_text(f"before {file}\n")
    mined = Path("outputs/toy/round2/stage2_mine")
    mine = "".join(f"mkdir -p {(mined / file).parent}; echo now {file} > {mined / file};" for file in files)
    (clone / "collect.sh").write_text(mine)
    done = "outputs/toy/round2/stage2_collect/done.json"
    make(clone, "ROUND=2", "COLLECT=sh collect.sh", "-o", done, str(mined / "sft/train.jsonl"))
    for file in files:
        assert (clone / mined / file).read_text() == f"now {file}\nbefore {file}\n"
        assert (clone / "outputs/toy/stage2_mine" / file).read_text() == f"before {file}\n"


def test_the_configs_of_a_round_parse(second_round: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for verb, config in (("run", "stage2_collect"), ("mine", "stage2_mine"), ("evaluate", "evaluate")):
        capture_parser(collect.__main__.main).parse_args([verb, "--config", str(second_round / f"{config}.yaml")])
