"""Rounds: the Makefile gives each its own folders, and leaves round 1 as it is."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command_lines import commands, make, resolved, values

ROOT = Path(__file__).parents[1]


def planning(folder: Path) -> Path:
    """Put into a folder what make needs to plan: itself, the configs and an environment it takes for current."""
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return planning(tmp_path)


def test_the_first_of_two_rounds_is_what_one_round_is(clone: Path) -> None:
    one, two = commands(make(clone, "-n", "train")), commands(make(clone, "-n", "train", "ROUNDS=2"))
    assert two[: len(one)] == one
    assert one[-1].startswith(".venv/bin/python -m collect evaluate --config configs/toy/evaluate.yaml")
    assert "--earlier outputs/toy/evaluate" in two[-1]
    assert not any("round2" in command for command in one)


def test_a_stage_can_be_asked_for_alone(clone: Path) -> None:
    assert not any("fit" in command for command in commands(make(clone, "-n", "train", "STAGE=pairs")))


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What the programs of rounds 1 and 2 would run with, by program, verb and config."""
    planned = commands(make(planning(tmp_path_factory.mktemp("clone")), "-n", "train", "ROUNDS=2"))
    ours = [shlex.split(line)[2:] for line in dict.fromkeys(planned) if "-m collect" in line or "fit" in line]
    found: list[dict[str, dict[str, Any]]] = [{}, {}]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for command in ours:
            if "outputs/toy/evaluate_videos" not in command or command[1] == "evaluate":  # a search that both share
                name = f"{command[0]} {command[1]} {Path(command[3]).stem}"
                found[any("round2" in argument for argument in command)][name] = resolved(command)
    return found


def test_a_round_searches_the_next_prompts_with_the_rewriter_just_tuned(
    clone: Path, rounds: list[dict[str, dict[str, Any]]]
) -> None:
    searched = rounds[1]["collect run stage2_collect"]
    assert searched["limit"] == 160
    prompts = clone / "outputs/toy/data/prompts/train.jsonl"
    prompts.parent.mkdir(parents=True)
    prompts.write_text("".join(f"{number}\n" for number in range(1, 241)))
    (clone / "outputs/toy/data/captions.jsonl").touch()
    make(clone, "ROUND=2", str(searched["prompts"]))
    assert (clone / str(searched["prompts"])).read_text().splitlines()[0] == "161"
    paths = {str(value) for value in values(searched) if str(value).startswith("outputs/toy/")}
    assert {path for path in paths if "round2" not in path} == {"outputs/toy/stage3_dpo/hf"}


def test_a_round_writes_nowhere_but_in_its_folder(rounds: list[dict[str, dict[str, Any]]]) -> None:
    before = {"outputs/toy/stage3_dpo/hf", "outputs/toy/evaluate"}  # the rewriter it starts from, what it compares with
    read = {"stage1_rewriter/hf", "evaluate_search", "evaluate_videos", "data/prompts/test.jsonl"}
    one, two = rounds
    assert {"collect mine stage2_mine", "train fit stage3_sft", "train fit stage3_dpo"} < two.keys() < one.keys()
    assert "collect evaluate evaluate" in two
    for name, after in two.items():
        for old, new in zip(values(one[name]), values(after), strict=True):
            if old != new:
                assert "round2" in str(new) or str(new) in before, (name, old, new)
            elif str(old).startswith("outputs/toy/"):
                assert str(old).removeprefix("outputs/toy/") in read, (name, old)
    names = [config["logger"]["init_args"]["name"] for name, config in two.items() if name.startswith("collect")]
    names += [c["trainer"]["logger"]["init_args"]["name"] for name, c in two.items() if name.startswith("train")]
    assert all(name.startswith("round2_") for name in names)


def test_records_of_the_rounds_before_are_added_to_what_a_round_mines(clone: Path) -> None:
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


def test_clean_leaves_what_no_stage_wrote(clone: Path) -> None:
    out = clone / "outputs/toy"
    for name in ("stage1_graph/tables-1/nodes.arrow", "round2/stage3_sft/config.yaml", "README.md", "notes/mine.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    assert make(clone, "clean")[-1] == "outputs/toy/notes"
    assert [path.name for path in out.iterdir()] == ["notes"]
    shutil.rmtree(out / "notes")
    make(clone, "clean")
    assert not out.exists()


@pytest.mark.parametrize("size", ["", ".", "..", "toy ..", "../outputs", "unknown"])
def test_a_size_that_no_folder_of_configs_has_is_refused(clone: Path, size: str) -> None:
    refused = subprocess.run(["make", "clean", f"SIZE={size}"], cwd=clone, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert f"SIZE is '{size}'; it must be one of " in refused.stderr
    assert (clone / "configs/toy").is_dir()


def test_what_was_set_aside_before_is_kept(clone: Path) -> None:
    search, model = clone / "outputs/toy/stage2_collect", clone / "outputs/toy/stage1_rewriter/hf/config.json"
    rule = [
        "include Makefile",
        "aside:",
        "\t$(call set_aside,outputs/toy/stage2_collect,outputs/toy/stage1_rewriter/hf/config.json)",
    ]
    (clone / "aside.mk").write_text("\n".join(rule) + "\n")
    model.parent.mkdir(parents=True)
    for number in range(2):
        search.mkdir(parents=True)
        (search / "trajectories.sqlite").write_text(str(number))
        os.utime(search / "trajectories.sqlite", (1, 1))
        model.touch()
        make(clone, "-f", "aside.mk", "aside")
    kept = (clone / "outputs/toy").glob("stage2_collect.replaced*/trajectories.sqlite")
    assert {path.read_text() for path in kept} == {"0", "1"}
