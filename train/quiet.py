"""What other libraries print while a run trains and its user can do nothing about.

Only what stands here is left out: loggers of libraries below the level of warnings, and single warnings of libraries by
their words.
"""

from collections.abc import Sequence

from lightning.pytorch.loggers import Logger, WandbLogger

from data_modules.quiet import is_verbose, leave_out

# They tell of seeds, devices and `weights_only`, and advertise ("try installing litlogger"). What runs, and where, is
# said by train.progress.
LOGGERS = ("lightning.pytorch", "lightning.fabric")

WARNINGS = (
    "`is_gradient_checkpointing` is deprecated",  # Transformers reads its own old attribute when it copies a config
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 asks torch in the way of torch 2.12
    ".* does not have many workers",  # the examples are in memory; loader processes would slow it down
    "Checkpoint directory .* exists and is not empty",  # a resumed run writes where the killed one did
)


def silence() -> None:
    """Leave it out, in this process from here on, unless ``VERBOSE=1`` is set."""
    if not is_verbose():
        leave_out(LOGGERS, WARNINGS)


def silence_loggers(loggers: Sequence[Logger]) -> None:
    """Take out an argument that Lightning passes to W&B for all, for which W&B warns that it has no effect."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and not is_verbose():
            logger._wandb_init.pop("anonymous", None)
