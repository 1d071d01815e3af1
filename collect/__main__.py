"""python -m collect {graph,pairs,run,mine,evaluate}: what uses trained models."""

import logging
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, auto_cli
from rich.console import Console

from collect.evaluate import evaluate
from collect.graph import graph
from collect.mine import mine
from collect.pairs import pairs
from collect.prompts import read_prompts
from collect.run import run

VERBS: dict[str, Any] = {"graph": graph, "pairs": pairs, "run": run, "mine": mine, "evaluate": evaluate}


class Parser(ArgumentParser):
    """Refuses unusable prompts before the classes named in a config load their weights."""

    def instantiate(self, namespace: Namespace, instantiate_groups: bool = True, **kwargs: Any) -> Namespace:
        """Check the prompts of the command that was asked for, then instantiate."""
        settings = namespace.get(str(namespace.get("subcommand")))
        if settings is not None and settings.get("prompts") is not None:
            read_prompts(Path(settings.prompts), settings.get("limit"))
        return super().instantiate(namespace, instantiate_groups, **kwargs)


def main() -> None:
    """Run one command; what the user can mend is one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        auto_cli(VERBS, as_positional=False, parser_class=Parser)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
