"""What README and docs name exists: links, class paths, make targets, files, commands and their options."""

import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import capture_parser

import collect.__main__
import train.cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text())


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text()) if name == language]


def command_lines(page: Path) -> list[str]:
    """Every line of the blocks that are for a shell or have no language."""
    shell = [*blocks(page, ""), *blocks(page, "bash")]
    return [line for block in shell for line in block.replace("\\\n", " ").splitlines()]


def commands(page: Path) -> list[str]:
    """The same, and every code span."""
    spans = re.findall(r"`([^`]+)`", prose(page))
    return [*(" ".join(span.split()) for span in spans), *command_lines(page)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EACH_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'\b(?:src|srcset|href)="([^"]+)"', prose(page))
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README.read_text()))
    assert linked == {str(page.relative_to(ROOT)) for page in PAGES if page != README}


def resolve(path: str) -> Any:
    """Import what a dotted path names."""
    parts = path.split(".")
    found, place = importlib.import_module(parts[0]), parts[0]
    for part in parts[1:]:
        place = f"{place}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(place)
    return found


@EACH_PAGE
def test_dotted_paths_resolve(page: Path) -> None:
    for path in set(re.findall(r"(?<![\w/.])(?:collect|train|models|data_modules)(?:\.\w+)+", page.read_text())):
        resolve(path)


def objects(node: object) -> Iterator[dict[str, Any]]:
    """Every mapping of a YAML document that names a class."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "class_path" in node:
        yield node
    for child in children:
        yield from objects(child)


@EACH_PAGE
def test_documented_yaml_fits_the_classes_it_names(page: Path) -> None:
    for block in blocks(page, "yaml"):
        found = list(objects(yaml.safe_load(block)))
        files = re.findall(r"(?<![\w/])\w+\.yaml", block)
        assert found or files
        assert all((ROOT / "configs/toy" / name).exists() for name in files)
        for item in (item for item in found if item["class_path"] not in files):
            accepted = inspect.signature(resolve(item["class_path"])).parameters
            assert item.get("init_args", {}).keys() <= accepted.keys(), item


@EACH_PAGE
def test_make_targets_and_variables_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^(?:export )?(\w+) [?:]?=", makefile, re.MULTILINE))
    for command in commands(page):
        if not command.startswith("make "):
            continue
        for word in shlex.split(command, comments=True)[1:]:
            variable, given, _ = word.partition("=")
            assert variable in (variables if given else targets), command


def test_no_measured_interval_stands_on_two_pages() -> None:
    places: dict[str, set[str]] = {}
    for page in PAGES:
        for figure in re.findall(r"[+-]?\d\.\d+ \[[^\]]*\d\]", " ".join(page.read_text().split())):
            places.setdefault(figure, set()).add(page.name)
    assert places
    assert {figure: names for figure, names in places.items() if len(names) > 1} == {}


@EACH_PAGE
def test_files_of_the_project_exist(page: Path) -> None:
    for command in commands(page):
        for path in re.findall(
            r"(?<![\w/.])(?:configs|docs|tests|models|data_modules|train|collect)/[\w./-]*", command
        ):
            assert (ROOT / path).exists(), command


def documented(program: str) -> list[str]:
    """Arguments of the commands in code blocks, but for those with a placeholder or a config of the user's own."""
    lines = [line.partition("  #")[0].partition(" > ")[0].strip() for page in PAGES for line in command_lines(page)]
    found = [line.partition(f"python -m {program} ")[2] for line in lines if f"python -m {program} " in line]
    configs = {arguments: re.search(r"--config (\S+)", arguments) for arguments in found}
    return [
        arguments
        for arguments, config in configs.items()
        if not re.search(r"\{(?!\")|\b[A-Z]{3,}\b", arguments) and (config is None or (ROOT / config[1]).exists())
    ]


@pytest.mark.parametrize("arguments", documented("collect"))
def test_documented_collect_commands_parse(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    capture_parser(collect.__main__.main).parse_args(shlex.split(arguments))


class ParsedError(Exception):
    """Raised instead of instantiating, so no weights are needed."""


@pytest.mark.parametrize("arguments", documented("train"))
def test_documented_train_commands_parse(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: train.cli.CLI) -> None:
        raise ParsedError

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train.cli, "load_checkpoint", lambda _: {})
    monkeypatch.setattr(train.cli.CLI, "before_instantiate_classes", stop)
    with pytest.raises(ParsedError):
        train.cli.main(shlex.split(arguments))
