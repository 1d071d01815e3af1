"""Every committed config still fits the code it names."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import capture_parser

import collect.__main__
import train.cli

ROOT = Path(__file__).parents[1]
DEFAULTS = ROOT / "configs" / "defaults.yaml"
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path != DEFAULTS)


def verb(config: Path) -> str | None:
    """The collect verb a config is for, after its name: stage2_collect is run's, the others end in their verb."""
    word = config.stem.rpartition("_")[2]
    word = {"collect": "run"}.get(word, word)
    return word if word in collect.__main__.VERBS else None


def names(configs: list[Path]) -> list[str]:
    return [str(config.relative_to(ROOT)) for config in configs]


TRAIN = [config for config in CONFIGS if verb(config) is None]
COLLECT = [config for config in CONFIGS if verb(config) is not None]


def test_configs_are_found() -> None:
    assert len(TRAIN) >= 4
    assert {verb(config) for config in COLLECT} == collect.__main__.VERBS.keys()


def test_every_size_has_the_same_stages() -> None:
    sizes = {size.name: {path.stem for path in size.glob("stage*.yaml")} for size in DEFAULTS.parent.glob("*/")}
    assert len({frozenset(stages) for stages in sizes.values()}) == 1, sizes


class ParsedError(Exception):
    """Raised instead of instantiating, so no weights are needed."""


@pytest.mark.parametrize("config", TRAIN, ids=names(TRAIN))
def test_train_config_parses(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: train.cli.CLI) -> None:
        raise ParsedError

    monkeypatch.setattr(train.cli.CLI, "before_instantiate_classes", stop)
    with pytest.raises(ParsedError):
        train.cli.main(["fit", "--config", str(config)])


@pytest.mark.parametrize("config", COLLECT, ids=names(COLLECT))
def test_collect_config_parses(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = capture_parser(collect.__main__.main)
    parser.parse_args([str(verb(config)), "--config", str(config)])


@pytest.mark.parametrize("size", sorted(DEFAULTS.parent.glob("*/")), ids=lambda size: size.name)
def test_stage_1_chooses_among_what_the_discriminator_was_trained_on(size: Path) -> None:
    labels, ablation = (yaml.safe_load((size / name).read_text()) for name in ("stage1_labels.yaml", "ablation.yaml"))
    assert ablation["methods"]["choice"]["init_args"]["candidates"] == labels["candidates"]
