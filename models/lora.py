"""The LoRA knobs this project tunes."""

from dataclasses import dataclass

from peft import LoraConfig, TaskType


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Args:
        r: rank of the update.
        alpha: the update is scaled by ``alpha / r``.
        dropout: probability of dropping an adapter's input.
        target_modules: names of the layers to adapt; ``all-linear`` takes every one but the head.
    """

    r: int = 64
    alpha: int = 64
    dropout: float = 0.1
    target_modules: str | list[str] = "all-linear"

    def to_peft(self, task_type: TaskType) -> LoraConfig:
        """Translate to PEFT's own configuration."""
        return LoraConfig(
            task_type=task_type,
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
        )
