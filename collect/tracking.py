"""W&B runs of the collect commands, through Lightning's logger so that they are configured like training."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import wandb
from lightning.pytorch.loggers import WandbLogger

logger = logging.getLogger(__name__)

Cell = str | int | float | Path | None


class Run:
    """What a command logs; without a W&B logger it goes nowhere.

    Args:
        wandb_logger: where to.
    """

    def __init__(self, wandb_logger: WandbLogger | None) -> None:
        self._logger = wandb_logger

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars."""
        if self._logger is not None:
            self._logger.log_metrics(dict(metrics), step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Log a table; paths are videos."""
        if self._logger is None:
            return
        data = [[wandb.Video(str(c), format="mp4") if isinstance(c, Path) else c for c in row] for row in rows]
        self._logger.log_table(name, columns=list(columns), data=data)

    def log_image(self, name: str, path: Path) -> None:
        """Log a picture."""
        if self._logger is not None:
            self._logger.log_image(name, [str(path)])


@contextmanager
def start(wandb_logger: WandbLogger | None, job_type: str) -> Iterator[Run]:
    """Open a W&B run for one command and finish it, without ever asking for a key or waiting for the network.

    Args:
        wandb_logger: project, group, name and folder; one that is online is taken offline where nobody is logged in.
        job_type: names the command.
    """
    if wandb_logger is None:
        yield Run(None)
        return
    # WandbLogger keeps the arguments of wandb.init, and offers no other way to add to them.
    settings = wandb_logger._wandb_init
    settings.pop("anonymous", None)  # Lightning passes it for all, and W&B warns that it has no effect
    settings["job_type"] = settings.get("job_type") or job_type
    if wandb_logger._offline or not wandb.api.api_key:
        if not wandb_logger._offline:
            logger.warning("Nobody is logged in to W&B; the run is logged offline. `wandb sync` uploads it later.")
        settings["mode"] = "offline"
    Path(settings["dir"] or ".").mkdir(parents=True, exist_ok=True)
    experiment = wandb_logger.experiment
    try:
        yield Run(wandb_logger)
    except BaseException:
        experiment.finish(exit_code=1)
        raise
    experiment.finish()
