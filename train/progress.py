"""What a training run says while it runs: what trains, how far it is, how it ended."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from data_modules.progress import Progress


class RunProgress(Callback):
    """Counts steps of a run whose epochs need not be known, and batches of a validation or test by itself."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what trains."""
        steps = trainer.estimated_stepping_batches
        total = None if steps == float("inf") else int(steps)
        if trainer.is_global_zero:
            sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
            trained = sum(size for size, trains in sizes if trains)
            sys.stderr.write(
                f"training {trained:,} of {sum(size for size, _ in sizes):,} parameters on {pl_module.device}, "
                f"steps {trainer.global_step} to {total or 'any'}\n"
            )
        self._begin(trainer, "training", "step", total, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Count optimiser steps."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the latest validation beside the steps."""
        if self._bar is not None and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._bar.set_postfix_str(_scores(trainer), refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how it ended."""
        self._close()
        if trainer.is_global_zero:
            scores = _scores(trainer)
            sys.stderr.write(f"trained to step {trainer.global_step}{f', {scores}' if scores else ''}\n")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, where this is all there is to do."""
        if trainer.state.fn == "validate":
            self._begin(trainer, "validating", "batch", sum(int(n) for n in trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Count batches."""
        if self._bar is not None and trainer.state.fn == "validate":
            self._bar.update()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._begin(trainer, "testing", "batch", sum(int(n) for n in trainer.num_test_batches))

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count batches."""
        if self._bar is not None:
            self._bar.update()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the line to what is printed next, also after an error."""
        self._close()

    def _begin(self, trainer: Trainer, what: str, unit: str, total: int | None, done: int = 0) -> None:
        self._bar = Progress(total=total, initial=done, desc=what, unit=unit, disable=not trainer.is_global_zero)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _scores(trainer: Trainer) -> str:
    """The latest validation's loss."""
    loss = trainer.callback_metrics.get("val/loss")
    return "" if loss is None else f"val/loss {float(loss):.3f}"
