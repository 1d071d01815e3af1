"""What every objective shares: optimisation, logging, checkpoint contents, export."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from models.compatibility import write_for_older_readers
from models.lora import LoRA, require_untied
from models.schedules import constant
from models.sharding import shard

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Mean:
    """A mean in its two parts, by which those of several batches make one mean, and not a mean of means.

    Args:
        total: sum over the batch, a scalar.
        count: how many were added up.
        unit: what they are: ``examples`` or ``tokens``.
    """

    total: Tensor
    count: Tensor
    unit: str = "examples"

    @classmethod
    def over(cls, values: Tensor, counted: Tensor) -> "Mean":
        """Mean of the values, ``(B,)``, whose ``counted``, ``(B,)``, is 1; the others' is 0."""
        return cls((values * counted).sum(), counted.sum())

    @property
    def value(self) -> Tensor:
        """The mean, or 0 of nothing."""
        return self.total / self.count.clamp(min=1)


class TrainingModule(LightningModule, ABC):
    """One objective: a batch in, means out, of which the loss is made.

    What is minimised is the loss over all batches of an optimiser step, on all devices, as if they were one batch;
    what is logged of a validation or test is the mean over its whole split.

    Args:
        optimizer: called with the trainable parameters.
        scheduler: called with the optimizer, stepped after every optimizer step.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.strict_loading = False  # checkpoints hold only what is trained; on_load_checkpoint is the strict one
        self._seen: dict[str, Mean] = {}  # of a validation or test, so far

    @abstractmethod
    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Map a batch to the means that are logged and that the loss is made of."""

    def objective(self, means: dict[str, Tensor]) -> Tensor:
        """Make the loss, a weighted sum, of the means' values."""
        return means["loss"]

    @abstractmethod
    def export(self, output_dir: Path, merge: bool, dtype: torch.dtype | None) -> None:
        """Write a directory that the library the network comes from can load.

        Args:
            output_dir: an empty directory.
            merge: fold adapters, if there are any, into the weights.
            dtype: precision of the weights; ``None`` keeps that of ``pretrained``.
        """

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Map a batch, by itself, to scalar metrics, ``loss`` among them."""
        return self._values(self.measure(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log ``train/*`` of this batch; return its part of the whole step's loss."""
        means = self.measure(batch)
        metrics = {f"train/{name}": value.detach() for name, value in self._values(means).items()}
        self.log_dict(metrics)
        return self.objective({name: mean.total / self._share(batch, mean) for name, mean in means.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to ``val/*``."""
        self._add(self.measure(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to ``test/*``."""
        self._add(self.measure(batch))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self._log_seen("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self._log_seen("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise the trainable parameters; step the schedule per optimizer step.

        Raises:
            ValueError: if they are in half precision, where squares of gradients are 0 and Adam divides by them.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        if any(p.dtype == torch.float16 for p in trained):
            raise ValueError(
                "weights in half precision can't be trained; set trainer.precision to bf16-true or 16-mixed, or train "
                "adapters with model.init_args.lora, which stay in single precision."
            )
        optimizer = self.optimizer(trained)
        scheduler = self.scheduler(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which objective the weights belong to."""
        checkpoint["module"] = type(self).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another objective, network or adapter shape.

        Raises:
            ValueError: naming the first difference.
        """
        written_by, name = checkpoint.get("module"), type(self).__name__
        if written_by != name:
            raise ValueError(f"the checkpoint was written by {written_by}, not by {name}; name the module it fits.")
        own, saved = self.state_dict(), checkpoint["state_dict"]
        for key in sorted(own.keys() ^ saved.keys()):
            side = "lacks" if key in own else "has the unknown weight"
            raise ValueError(
                f"the checkpoint {side} {key}; is `pretrained` or `lora` another than in the run that wrote it?"
            )
        for key, value in own.items():
            if saved[key].shape != value.shape:
                raise ValueError(
                    f"the checkpoint's {key} has shape {tuple(saved[key].shape)} and the network's "
                    f"{tuple(value.shape)}; is `pretrained` or `lora` another than in the run that wrote it?"
                )

    def _values(self, means: dict[str, Mean]) -> dict[str, Tensor]:
        values = {name: mean.value for name, mean in means.items()}
        return {**values, "loss": self.objective(values)}

    def _share(self, batch: Batch, mean: Mean) -> Tensor:
        """What a total is divided by, so that the mean over a step's batches is the mean over its tokens or examples.

        Lightning takes the former mean: it divides by the number of accumulated batches and of devices. Batches that do
        not say what their step adds up to are all alike.
        """
        whole = batch.get(f"step_{mean.unit}")
        if whole is None:
            return mean.count
        return whole / (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def _add(self, means: dict[str, Mean]) -> None:
        for name, mean in means.items():
            seen = self._seen.get(name)
            self._seen[name] = mean if seen is None else Mean(seen.total + mean.total, seen.count + mean.count)

    def _log_seen(self, split: str) -> None:
        """Log the means over all batches and devices, and start anew."""
        sums = torch.stack([torch.stack([mean.total, mean.count.to(mean.total)]) for mean in self._seen.values()])
        sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        seen = {name: Mean(total, count) for name, (total, count) in zip(self._seen, sums, strict=True)}
        self._seen = {}
        self.log_dict({f"{split}/{name}": value for name, value in self._values(seen).items()})


class LoRAModule(TrainingModule):
    """A pretrained transformer, optional LoRA adapters and one objective.

    Args:
        pretrained: Hugging Face id or directory with weights and tokenizer.
        lora: adapter shape; ``None`` trains every weight.
        gradient_checkpointing: recompute activations in the backward pass.
        four_bit: hold the base's weights in four bits while adapters are trained on it (QLoRA); exports have the
            base's own weights.
        **kwargs: see :class:`TrainingModule`.

    Raises:
        ValueError: if the base is to be held in four bits without adapters, which leaves nothing to train.
    """

    task_type: ClassVar[TaskType]
    model: PreTrainedModel | PeftModel | None

    def __init__(
        self,
        pretrained: str,
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
        four_bit: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if four_bit and lora is None:
            raise ValueError("four_bit needs `lora`: weights in four bits are not trained, only adapters on them.")
        self.pretrained = pretrained
        self.lora = lora
        self.gradient_checkpointing = gradient_checkpointing
        self.four_bit = four_bit
        self.model = None

    @property
    def base(self) -> str:
        """What adapters are for, as they name it: an id of the Hub, or the full path of a folder."""
        folder = Path(self.pretrained)
        return str(folder.resolve()) if folder.is_dir() else self.pretrained

    @property
    def network(self) -> PreTrainedModel:
        """The pretrained network, with adapters in its layers if there are any.

        PEFT's wrapper calls its ``forward`` alone, without the hooks by which sharded weights are gathered.
        """
        assert self.model is not None
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @abstractmethod
    def load_backbone(self) -> PreTrainedModel:
        """Load the pretrained network this objective trains."""

    def configure_model(self) -> None:
        """Load the weights, once, inside the trainer's device and precision context."""
        if self.model is not None:
            return
        model = self.load_backbone()
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        mesh = self.device_mesh
        network = model
        if self.lora is not None:
            config = self.lora.to_peft(self.task_type)
            require_untied(model, config)
            # What is sharded together must have one precision.
            model = get_peft_model(model, config, autocast_adapter_dtype=mesh is None)
        if mesh is not None:
            shard(network, mesh)
        self.model = model.train()  # from_pretrained returns eval mode and Lightning keeps it

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move, and keep every precision: the weights were loaded in the trainer's.

        What is in single precision beside them, adapters and the frequencies of rotary embeddings, has to be:
        Lightning would round it with the rest.
        """
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        return self if device is None else super().to(device)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Keep only trained weights, so a LoRA checkpoint is megabytes."""
        state = super().state_dict(*args, **kwargs)
        if self.lora is None:
            return state
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: value for name, value in state.items() if name in trained}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only trained weights, also where a strategy gathers all of them."""
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        if self.lora is not None and state:  # only the first process has it, if the strategy gathers it there
            trained = {name for name, p in self.named_parameters() if p.requires_grad}
            checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}

    def export(self, output_dir: Path, merge: bool, dtype: torch.dtype | None) -> None:
        """Write a directory that ``from_pretrained`` can load from wherever it is called, tokenizer included.

        The module is not to be trained afterwards: merging takes its adapters away, and its weights are rounded to the
        precision that is written.
        """
        assert self.model is not None
        merged = merge and isinstance(self.model, PeftModel)
        model = self.model.merge_and_unload() if merged else self.model
        if isinstance(model, PeftModel):
            model.active_peft_config.base_model_name_or_path = self.base
        model.to(dtype or self.stored_dtype()).save_pretrained(output_dir)
        AutoTokenizer.from_pretrained(self.pretrained).save_pretrained(output_dir)
        write_for_older_readers(output_dir)

    def stored_dtype(self) -> torch.dtype:
        """The precision that the base's files have."""
        stored: torch.dtype = AutoModelForCausalLM.from_pretrained(
            self.pretrained, dtype="auto", device_map="meta"
        ).dtype
        return stored
