"""What the two programs make of a command line, before anything is loaded, and the command lines that make plans."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import capture_parser

import collect.__main__
import train.cli


class ParsedError(Exception):
    """Raised instead of instantiating, so that no weights are needed."""


def resolved(command: list[str]) -> dict[str, Any]:
    """The configuration of ``collect VERB ...`` or ``train VERB ...``, as ``--print_config`` shows it."""
    program, verb, *_ = command
    if program == "collect":
        parsed = capture_parser(collect.__main__.main).parse_args(command[1:])
        return parsed[verb].clone(with_meta=False).as_dict()
    found = {}

    def stop(cli: train.cli.CLI) -> None:
        found.update(cli.config[verb].clone(with_meta=False).as_dict())
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        patch.setattr(train.cli.CLI, "before_instantiate_classes", stop)
        with pytest.raises(ParsedError):
            train.cli.main(command[1:])
    return found


def make(folder: Path, *arguments: str) -> list[str]:
    """Run make without the variables of a make that runs these tests; return what it printed."""
    given = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(given, cwd=folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def commands(lines: list[str]) -> list[str]:
    """The programs of ours that would run."""
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in joined if line.startswith(".venv/bin/python")]


def values(node: object) -> list[object]:
    """Every leaf of a configuration."""
    if isinstance(node, dict):
        return [leaf for child in node.values() for leaf in values(child)]
    if isinstance(node, list):
        return [leaf for child in node for leaf in values(child)]
    return [node]
