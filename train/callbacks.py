"""Callbacks the trainer program adds or a config names."""

import json
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from data_modules import SFTDataModule
from models import SFTModule


class LogConfig(SaveConfigCallback):
    """Save the resolved config next to a training run and send it to every logger.

    Only ``fit`` does so: the config that a later ``validate`` or ``test`` was given is not the one to resume from.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save once, when training starts."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config as hyperparameters."""
        config = json.loads(self.parser.dump(self.config, skip_unset=False, format="json"))
        for logger in trainer.loggers:
            logger.log_hyperparams(config)


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
        pad = data.tokenizer.pad_token_id
        ids = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in prompts], batch_first=True, padding_side="left")
        greedy = GenerationConfig(
            max_new_tokens=self.max_new_tokens, eos_token_id=data.tokenizer.eos_token_id, pad_token_id=pad
        )
        written = module.model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        return data.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
