"""What other libraries print while a command runs and its user can do nothing about.

Only what stands here is left out: loggers of libraries below the level of warnings, bars of a moment, and single
warnings of libraries by their words.
"""

import diffusers

from data_modules.quiet import is_verbose, leave_out

LOGGERS = (
    "httpx",  # a line for every request to an endpoint
    "sentence_transformers",  # that it loads the encoder, and a bar for every batch of sentences
    "lightning.pytorch",  # seeds and devices, of which a command that trains nothing has none
    "lightning.fabric",  # the same
)

WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",  # Transformers reads its own old attribute when it copies a config
)


def silence() -> None:
    """Leave it out, in this process from here on, unless ``VERBOSE=1`` is set."""
    if is_verbose():
        return
    leave_out(LOGGERS, WARNINGS)
    diffusers.utils.logging.disable_progress_bar()  # components of a pipeline, whose weights have bars of their own
