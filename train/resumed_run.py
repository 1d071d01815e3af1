"""A resumed training as one run in W&B."""

import secrets

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from train.callbacks import LastCheckpoint


def keep_run_id(trainer: Trainer, resumed: bool) -> None:
    """Let a resumed training continue its W&B run, whose id is kept beside the checkpoints as ``wandb_id.txt``.

    A training that starts anew in the same folder is a new run. The id must be known before training, since Lightning
    begins the run ahead of all that callbacks can do.
    """
    checkpoints = [callback.path for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not checkpoints or not loggers or not trainer.is_global_zero:
        return
    settings, kept = loggers[0]._wandb_init, checkpoints[0].with_name("wandb_id.txt")
    if resumed and kept.is_file():
        settings |= {"id": kept.read_text(encoding="utf-8").strip(), "resume": "allow"}
        return
    settings["id"] = settings["id"] or secrets.token_hex(4)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(f"{settings['id']}\n", encoding="utf-8")
