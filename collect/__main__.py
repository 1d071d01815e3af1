"""python -m collect {data,graph,pairs,labels,choice,run,mine,export,evaluate,ablation,suite,rewrite}.

What uses trained models.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, auto_cli, set_loader
from yaml import YAMLError

from collect.backends.identity import identify
from collect.backends.token_budget import set_generator_of_gates, warn_of_long_prompts
from collect.console import PlainConsole, PlainFormatter
from collect.evaluation.ablation import ablation
from collect.evaluation.choice import choice
from collect.evaluation.evaluate import evaluate
from collect.examples.data import data
from collect.examples.labels import labels
from collect.examples.mine import mine
from collect.examples.pairs import pairs
from collect.graph.build import graph
from collect.prompts import read_prompts
from collect.quiet import silence
from collect.rewriters.rewrite import NOT_ASKED, gather, rewrite
from collect.search.export import export
from collect.search.retries import BackendError
from collect.search.run import run
from collect.sub_configs import SubConfigs
from collect.suites.suite import suite

VERBS: dict[str, Any] = {
    "data": data,
    "graph": graph,
    "pairs": pairs,
    "labels": labels,
    "choice": choice,
    "run": run,
    "mine": mine,
    "export": export,
    "evaluate": evaluate,
    "ablation": ablation,
    "suite": suite,
    "rewrite": rewrite,
}

# Class paths of earlier versions that configs out there may still say.
MOVED = {
    "collect.discriminator.ChoosingRewriter": "collect.rewriters.RAPORewriter",
    "collect.discriminator.Discriminator": "collect.rewriters.Discriminator",
    "collect.generators.DiffusersGenerator": "collect.backends.DiffusersGenerator",
    "collect.language_models.OpenAILM": "collect.backends.OpenAILM",
    "collect.language_models.TransformersLM": "collect.backends.TransformersLM",
    "collect.rapo.RAPORewriter": "collect.rewriters.RAPORewriter",
    "collect.workers.RayWorkers": "collect.search.RayWorkers",
}

SUB_CONFIGS = SubConfigs()

BACKENDS = ("generator", "verifiers", "judge", "rewriter", "alternatives", "proposer", "gate", "language_model")


class Parser(ArgumentParser):
    """Instantiates what a config names, after a look at what it will be used for."""

    def add_function_arguments(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
        """Take the prompts of a rewrite from the end of the command line, as they are, and its dry run as a flag."""
        if function is not rewrite:
            return super().add_function_arguments(function, *args, **kwargs)
        kwargs["skip"] = {*(kwargs.get("skip") or ()), "texts", "dry_run"}
        added = super().add_function_arguments(function, *args, **kwargs)
        self.add_argument("texts", nargs="*", type=str, default=[], help="prompts, at the end of the command")
        self.add_argument("--dry-run", action="store_true", help="show what is found in the graph and asked; no models")
        return [*added, "texts", "dry_run"]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with what is wrong, and in which file; of a class path that has moved, with nothing but where to."""
        moved = [f"{old} is now {new}" for old, new in MOVED.items() if old in message]
        if moved:
            fail("; ".join(moved) + "; say so in the config or on the command line.")
        about = SUB_CONFIGS.explain(message)
        super().error("\n".join([message, *about]), ex)

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
                asked = read_prompts(Path(section[name]), section.get("limit"))
                if section.get("generator") is not None:
                    warn_of_long_prompts([prompt.prompt for prompt in asked], section.generator.as_dict())
        if section.get("generator") is not None:
            set_generator_of_gates(section, section.generator.as_dict())
        if verb == "rewrite":
            section.texts = gather(section.texts, section.prompts)
            if section.dry_run:
                for name, stand_in in NOT_ASKED.items():
                    section.rewriter.init_args[name] = stand_in
        if "backends" not in section:
            return super().instantiate(namespace, instantiate_groups, **kwargs)
        without_files = section.clone(with_meta=False).as_dict()  # named or written out, a backend is the same
        configured = {name: value for name, value in without_files.items() if name in BACKENDS and value}
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
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    SUB_CONFIGS.named.clear()
    set_loader("yaml", SUB_CONFIGS.load, (YAMLError,))
    try:
        auto_cli(VERBS, as_positional=False, parser_class=Parser)
    except BrokenPipeError:  # who reads the results has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, BackendError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End with one line on standard error and exit code 2."""
    PlainConsole(stderr=True, soft_wrap=True).print(f"error: {message}", style="red", highlight=False)
    sys.exit(2)


if __name__ == "__main__":
    silence()
    main()
