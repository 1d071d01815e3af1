"""Every committed config still fits the code it names, and says what a model is once."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import collect.__main__
from tests.command_lines import resolved

ROOT = Path(__file__).parents[1]
QUICK = ("toy", "wan2.1")
SIZES = sorted((ROOT / "configs").glob("*/"))


def verb(config: Path) -> str | None:
    """The collect verb a config is for, after its name: stage2_collect is run's, the others end in their verb."""
    word = config.stem.rpartition("_")[2]
    word = {"collect": "run"}.get(word, word)
    return word if word in collect.__main__.VERBS else None


def listed(configs: list[Path]) -> list[Any]:
    """Parameters of a test; those of most video models are read with the slow tests."""
    sizes = [config.relative_to(ROOT / "configs").parts[0] for config in configs]
    return [
        pytest.param(config, id=str(config.relative_to(ROOT)), marks=() if size in QUICK else pytest.mark.slow)
        for config, size in zip(configs, sizes, strict=True)
    ]


CONFIGS = [path for size in SIZES for path in sorted(size.rglob("*.yaml"))]
TRAIN = [config for config in CONFIGS if "\ntrainer:\n" in config.read_text()]
COLLECT = [config for config in CONFIGS if verb(config) is not None]
NAMED = [config for config in CONFIGS if config not in (*TRAIN, *COLLECT)]


def test_configs_are_found() -> None:
    assert len(TRAIN) >= 4
    brought = {"data"}  # by users, as arguments
    assert {verb(config) for config in COLLECT} == collect.__main__.VERBS.keys() - brought
    assert set(TRAIN).isdisjoint(COLLECT)


def test_every_size_has_the_same_files() -> None:
    sizes = {size.name: {path.name for path in size.glob("*.yaml")} for size in SIZES}
    assert len({frozenset(files) for files in sizes.values()}) == 1, sizes


@pytest.mark.parametrize("config", listed(TRAIN))
def test_train_config_parses(config: Path) -> None:
    assert resolved(["train", "fit", "--config", str(config)])


@pytest.mark.parametrize("config", listed(COLLECT))
def test_collect_config_parses(config: Path) -> None:
    assert resolved(["collect", str(verb(config)), "--config", str(config)])


@pytest.mark.parametrize("config", listed(NAMED))
def test_what_a_model_is_stands_in_a_file_that_others_name(config: Path) -> None:
    others = [path for path in config.parent.glob("*.yaml") if path != config]
    assert any(config.name in path.read_text() for path in others)


@pytest.mark.parametrize("config", listed(CONFIGS))
def test_no_config_says_again_what_a_file_beside_it_says(config: Path) -> None:
    """A class that has a file of its own is named by that file."""
    text = config.read_text()
    assert "<<" not in text
    others = "\n".join(path.read_text() for path in NAMED if path.parent == config.parent and path != config)
    said = re.findall(r"^class_path: ([\w.]+)(?<!yaml)$", others, re.MULTILINE)
    several = {  # judge, discriminator, choice
        "collect.backends.TransformersLM",
        "collect.rewriters.RAPORewriter",
        "collect.verifiers.ToyWorldVerifier",
        "collect.verifiers.VLMVerifier",
    }
    assert set(re.findall(r"class_path: ([\w.]+)", text)).isdisjoint(set(said) - several)


def test_another_video_model_is_an_edit_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "configs/toy", tmp_path / "mine")
    generator = tmp_path / "mine/generator.yaml"
    generator.write_text(generator.read_text().replace("models/toy/generator", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"))
    monkeypatch.chdir(ROOT)
    searched = resolved(["collect", "run", "--config", str(tmp_path / "mine/stage2_collect.yaml")])
    assert searched["generator"]["init_args"]["pretrained"] == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    rendering = {"labels", "run", "evaluate", "ablation", "suite"}
    assert {verb(config) for config in COLLECT if "\ngenerator: generator.yaml\n" in config.read_text()} == rendering
    others = [path.read_text() for path in (tmp_path / "mine").glob("*.yaml")]
    assert not any("models/toy/generator" in text for text in others)
