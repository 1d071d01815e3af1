"""What every objective shares: optimisation, logging, checkpoint contents, export."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor
from torch.optim import AdamW
from transformers import AutoTokenizer, PreTrainedModel

from models.lora import LoRA
from models.schedules import constant
from models.sharding import shard

Batch = dict[str, Tensor]


class TrainingModule(LightningModule, ABC):
    """One objective: a batch in, scalar metrics out.

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

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Map a batch to scalar metrics; ``loss`` is the one minimised."""

    @abstractmethod
    def export(self, output_dir: Path, merge: bool) -> None:
        """Write a directory that the library the network comes from can load."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log ``train/*`` and return the loss."""
        return self._log_step("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``val/*``."""
        self._log_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``test/*``."""
        self._log_step("test", batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise the trainable parameters; step the schedule per optimizer step."""
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
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

    def _log_step(self, split: str, batch: Batch) -> Tensor:
        metrics = self.step(batch)
        self.log_dict(
            {f"{split}/{name}": value for name, value in metrics.items()},
            batch_size=len(next(iter(batch.values()))),
            sync_dist=split != "train",
        )
        return metrics["loss"]


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
            # What is sharded together must have one precision.
            model = get_peft_model(model, self.lora.to_peft(self.task_type), autocast_adapter_dtype=mesh is None)
        if mesh is not None:
            shard(network, mesh)
        self.model = model.train()  # from_pretrained returns eval mode and Lightning keeps it

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

    def export(self, output_dir: Path, merge: bool) -> None:
        """Write a directory that ``from_pretrained`` can load from wherever it is called, tokenizer included.

        The module is not to be trained afterwards: merging takes its adapters away.
        """
        assert self.model is not None
        merged = merge and isinstance(self.model, PeftModel)
        model = self.model.merge_and_unload() if merged else self.model
        if isinstance(model, PeftModel):
            model.active_peft_config.base_model_name_or_path = self.base
        model.save_pretrained(output_dir)
        AutoTokenizer.from_pretrained(self.pretrained).save_pretrained(output_dir)
