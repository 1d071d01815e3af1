"""The LoRA knobs this project tunes."""

from collections import defaultdict
from dataclasses import dataclass

from peft import LoraConfig, TaskType
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn


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


def require_untied(model: nn.Module, config: LoraConfig) -> None:
    """Refuse adapters on a layer that shares its weights with another.

    Adapters change one of the two layers; folded into the weights, they would change both.

    Raises:
        ValueError: naming the layers.
    """
    layers = defaultdict(list)
    for name, weight in model.named_parameters(remove_duplicate=False):
        layers[weight].append(name.rpartition(".")[0])
    for names in layers.values():
        adapted = [name for name in names if check_target_module_exists(config, name)]
        if len(names) > 1 and adapted:
            raise ValueError(
                f"lora.target_modules takes in {' and '.join(adapted)}, but {' and '.join(names)} are tied: they share "
                "their weights, so that an adapter of one can't be folded into them; leave it out."
            )
