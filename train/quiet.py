"""What other libraries print while a run trains and its user can do nothing about.

It is left out unless ``VERBOSE=1`` is set. Only what stands here is: a logger of a library below the level of warnings,
and single warnings of libraries by their words. Nothing of this project is.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import transformers
from lightning.pytorch.loggers import Logger, WandbLogger

from data_modules.progress import Progress

# Heard from warnings on: they tell of seeds, devices and `weights_only`, and advertise ("try installing litlogger").
# What runs, and where, is said by train.progress.
LOGGERS = ("lightning.pytorch", "lightning.fabric")

WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",  # Transformers reads its own old attribute when it copies a config
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 asks torch in the way of torch 2.12
    ".* does not have many workers",  # the examples are in memory; loader processes would slow it down
    "Checkpoint directory .* exists and is not empty",  # a resumed run writes where the killed one did
)


def is_verbose() -> bool:
    """Whether everything is to be shown."""
    return os.environ.get("VERBOSE", "0") not in {"", "0"}


def silence() -> None:
    """Leave it out, in this process from here on."""
    if is_verbose():
        return
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for words in WARNINGS:
        warnings.filterwarnings("ignore", words)
    transformers.utils.logging.set_tqdm_hook(delayed)


def delayed(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Progress:
    """Show the loading of weights only where it takes longer than a moment."""
    return Progress(*args, **{**kwargs, "delay": 5})


def silence_loggers(loggers: Sequence[Logger]) -> None:
    """Take out an argument that Lightning passes to W&B for all, for which W&B warns that it has no effect."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and not is_verbose():
            logger._wandb_init.pop("anonymous", None)
