"""python -m collect {graph,pairs,labels,choice,run,mine,evaluate}: what uses trained models."""

import logging
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, auto_cli
from rich.console import Console

from collect.attempts import BackendError
from collect.discriminator import choice
from collect.evaluate import evaluate
from collect.graph import graph
from collect.identity import identify
from collect.labels import labels
from collect.mine import mine
from collect.pairs import pairs
from collect.prompts import read_prompts
from collect.run import run

VERBS: dict[str, Any] = {
    "graph": graph,
    "pairs": pairs,
    "labels": labels,
    "choice": choice,
    "run": run,
    "mine": mine,
    "evaluate": evaluate,
}

BACKENDS = ("generator", "verifiers", "rewriter", "proposer", "gate")


class Parser(ArgumentParser):
    """Instantiates what a config names, after a look at what it will be used for."""

    def instantiate(self, namespace: Namespace, instantiate_groups: bool = True, **kwargs: Any) -> Namespace:
        """Instantiate, once the prompts of the command that was asked for are seen to be usable.

        Commands that keep their backends' configuration get it, and where workers are configured only they make the
        backends.
        """
        verb = str(namespace.get("subcommand"))
        section = namespace.get(verb)
        if section is None:
            return super().instantiate(namespace, instantiate_groups, **kwargs)
        for name in ("prompts", "test_prompts"):
            if section.get(name) is not None:
                read_prompts(Path(section[name]), section.get("limit"))
        if "backends" not in section:
            return super().instantiate(namespace, instantiate_groups, **kwargs)
        configured = {name: value for name, value in section.as_dict().items() if name in BACKENDS and value}
        section.backends = identify(configured)
        if section.get("workers") is None:
            return super().instantiate(namespace, instantiate_groups, **kwargs)
        for name in configured:
            section.pop(name)
        made = super().instantiate(namespace, instantiate_groups, **kwargs)
        for name, backend in made[verb].workers.start(configured, section.get("time_limit")).items():
            made[verb][name] = backend
        return made


def main() -> None:
    """Run one command; what the user can mend is one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        auto_cli(VERBS, as_positional=False, parser_class=Parser)
    except (ValueError, OSError, BackendError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
