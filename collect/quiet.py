"""What other libraries print while a command runs and its user can do nothing about.

It is left out unless ``VERBOSE=1`` is set. Only what stands here is: loggers of libraries below the level of warnings,
bars of a moment, and single warnings of libraries by their words. Nothing of this project is.
"""

import logging
import os
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import transformers

from data_modules.progress import Progress

LOGGERS = (
    "httpx",  # a line for every request to an endpoint
    "sentence_transformers",  # that it loads the encoder, and a bar for every batch of sentences
    "lightning.pytorch",  # seeds and devices, of which a command that trains nothing has none
    "lightning.fabric",  # the same
)

WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",  # Transformers reads its own old attribute when it copies a config
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
    diffusers.utils.logging.disable_progress_bar()  # components of a pipeline, whose weights have bars of their own


def delayed(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Progress:
    """Show the loading of weights only where it takes longer than a moment."""
    return Progress(*args, **{**kwargs, "delay": 5})
