"""What other libraries print and a user can do nothing about, left out unless ``VERBOSE=1`` is set.

Each program lists what it leaves out, with the reasons, in a file of its own name: ``train/quiet.py`` and
``collect/quiet.py``. Nothing of this project is on those lists.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import transformers

from data_modules.progress import Progress


def is_verbose() -> bool:
    """Whether everything is to be shown."""
    return os.environ.get("VERBOSE", "0") not in {"", "0"}


def leave_out(loggers: Sequence[str], messages: Sequence[str]) -> None:
    """Leave it out, in this process from here on; loading bars show only where loading takes longer than a moment.

    Args:
        loggers: of libraries, which are heard from warnings on.
        messages: of single warnings, as regular expressions that match their beginning.
    """
    for name in loggers:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in messages:
        warnings.filterwarnings("ignore", message)
    transformers.utils.logging.set_tqdm_hook(_delayed)


def _delayed(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Progress:
    return Progress(*args, **{**kwargs, "delay": 5})
