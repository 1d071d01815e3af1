"""Callbacks the trainer program adds or a config names."""

import hashlib
import json
import math
import random
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from pydantic import with_config
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig
from typing_extensions import TypedDict

from data_modules import JSONLDataModule, SFTDataModule
from data_modules.schema import OPEN
from models import SFTModule

LIBRARIES = ("torch", "lightning", "transformers", "peft")


@with_config(OPEN)
class Provenance(TypedDict):
    """What a checkpoint says of its origin: how it was trained, on which records, by splits, with which libraries."""

    config: str
    commit: str | None
    versions: dict[str, str]
    records: dict[str, int]
    sha256: dict[str, str]


@with_config(OPEN)
class Validation(TypedDict):
    """What a checkpoint says of the latest validation."""

    step: int
    scores: dict[str, float]


class LogConfig(SaveConfigCallback):
    """Save the resolved config next to a training run, send it to every logger, and keep it in the checkpoints.

    With it goes what else says where the weights come from, for the model card: the records, the libraries' versions
    and the commit. Only ``fit`` does so: the config that a later ``validate`` or ``test`` was given is not the one to
    resume from.
    """

    provenance: Provenance

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save once, when training starts."""
        if stage != "fit":
            return
        super().setup(trainer, pl_module, stage)
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.provenance = {
            "config": self.parser.dump(self.config, skip_unset=False),
            "commit": commit(),
            "versions": {name: version(name) for name in LIBRARIES},
            "records": {split: len(records) for split, records in data.records.items()}
            if isinstance(data, JSONLDataModule)
            else {},
            "sha256": {split: sha256(data.path(split)) for split in data.records}
            if isinstance(data, JSONLDataModule)
            else {},
        }

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config as hyperparameters."""
        config = json.loads(self.parser.dump(self.config, skip_unset=False, format="json"))
        for logger in trainer.loggers:
            logger.log_hyperparams(config)

    def state_dict(self) -> dict[str, Any]:
        """Collect what the checkpoint says of its origin; plain strings and numbers."""
        return {**self.provenance}


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str | None:
    """Name the commit of this code, ``-dirty`` if files differ from it; ``None`` where it is no git checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    described = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``, written after validations; a run that would end before the first one is refused.

    Raises:
        ValueError: when training starts, if no validation would come that the monitored metric could come from.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count batches up to the first validation and up to the end."""
        super().on_train_start(trainer, pl_module)
        interval = trainer.val_check_batch
        if self.monitor is None or interval is None or not trainer.enable_validation:
            return
        epoch, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
        every = trainer.check_val_every_n_epoch
        first = interval if every is None else (every - 1) * epoch + interval
        last = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * epoch
        if trainer.max_steps != -1:
            epochs, steps = divmod(trainer.max_steps, math.ceil(epoch / accumulated))
            last = min(last, epochs * epoch + min(steps * accumulated, epoch))
        if last < first:
            raise ValueError(
                f"training would end after {last} batches, before the first validation after {first}, and leave no "
                f"{self.filename}.ckpt; lower trainer.val_check_interval, or train longer."
            )


class LastCheckpoint(Checkpoint):
    """``last.ckpt``, from which a killed run resumes exactly, saved now and then and where training ends.

    The end is the last of ``max_steps`` or of ``max_epochs``; a run that ends earlier, by early stopping, stops in the
    same place again when it resumes.

    Args:
        dirpath: folder to save in.
        every_n_train_steps: optimiser steps from one save to the next.

    Raises:
        ValueError: if ``every_n_train_steps`` is below 1.
    """

    def __init__(self, dirpath: Path, every_n_train_steps: int = 100) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}.")
        self.path = dirpath / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._saved = 0  # step; batches whose gradients only accumulate do not change it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the step that a run resumes from as saved."""
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Save every so many steps, and after the last of ``max_steps``, which need not be an epoch's last."""
        step = trainer.global_step
        if step != self._saved and (step % self.every_n_train_steps == 0 or step == trainer.max_steps):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the last of ``max_epochs``, with the epoch counted as done."""
        whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if whole and trainer.current_epoch + 1 == trainer.max_epochs and trainer.global_step != trainer.max_steps:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._saved = trainer.global_step
        trainer.save_checkpoint(self.path)


class LearningRates(LearningRateMonitor):
    """The learning rate of every step, for runs that log."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Begin; without a logger there is nothing to do, which its base class refuses."""
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)


class ValidationScores(Callback):
    """Keep the scores of the latest validation, which checkpoints carry to the model card."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.step = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the scores down; checkpoints that the validation causes are saved after this."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            metrics = trainer.callback_metrics.items()
            self.scores = {name: float(value) for name, value in metrics if name.startswith("val/")}
            self.step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Collect step and scores."""
        return {"step": self.step, "scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint's."""
        self.step, self.scores = state_dict["step"], state_dict["scores"]


class RandomState(Callback):
    """Put the state of every random generator into the checkpoint, so that a resumed run draws what it would have.

    The states are tensors and plain numbers, which ``torch.load(weights_only=True)`` reads.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Collect the states of torch, CUDA, NumPy and Python."""
        name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the state that libraries draw from
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
            "python": random.getstate(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts, after everything that draws numbers while it is set up."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the sequences of the interrupted run."""
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        random.setstate(state["python"])


class SampleRewrites(Callback):
    """After each validation, answer a few validation prompts greedily and log them to W&B as ``val/rewrites``.

    Args:
        num_samples: how many prompts, from the top of the validation file.
        max_new_tokens: longest answer.

    Raises:
        ValueError: if the run does not train an :class:`~models.SFTModule` on :class:`~data_modules.SFTDataModule`.
    """

    def __init__(self, num_samples: int = 4, max_new_tokens: int = 128) -> None:
        self.num_samples = num_samples
        self.max_new_tokens = max_new_tokens

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse runs that have no rewrites."""
        if not isinstance(pl_module, SFTModule) or not isinstance(trainer.datamodule, SFTDataModule):  # type: ignore[attr-defined]
            raise ValueError(
                f"SampleRewrites needs an SFTModule and an SFTDataModule, got {type(pl_module).__name__}; "
                "take it out of trainer.callbacks."
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log prompt, answer and reference."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if trainer.sanity_checking or not loggers:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, SFTModule)
        records = data.records["val"][: self.num_samples]
        answers = self._answers(pl_module, data)
        rows = [
            [trainer.global_step, record.prompt[-1]["content"], answer, record.completion[-1]["content"]]
            for record, answer in zip(records, answers, strict=True)
        ]
        for logger in loggers:
            logger.log_table("val/rewrites", ["step", "prompt", "rewrite", "reference"], rows)

    @torch.no_grad()
    def _answers(self, module: SFTModule, data: SFTDataModule) -> list[str]:
        """Greedy continuations; nothing is drawn, so that the training run stays what it is without them."""
        assert module.model is not None
        examples = data.examples["val"][: self.num_samples]
        prompts = [
            torch.tensor(example["input_ids"][: example["completion_mask"].index(1)], device=module.device)
            for example in examples
        ]
        pad = data.pad_id
        ids = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in prompts], batch_first=True, padding_side="left")
        # What is left unsaid, the base's own settings say: many sample, and punish words that came before.
        greedy = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(data.end_ids),
            pad_token_id=pad,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            min_new_tokens=0,
        )
        written = module.model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        return data.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
