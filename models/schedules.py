"""Learning-rate schedules that a config can name; all step once per optimiser step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer) -> LambdaLR:
    """Keep the learning rate."""
    return LambdaLR(optimizer, lambda step: 1.0)


class CosineWarmup(LambdaLR):
    """Rise linearly for ``warmup_steps``, then fall along a cosine to zero at ``total_steps``.

    Args:
        optimizer: whose learning rate is scaled.
        warmup_steps: optimiser steps until the full learning rate.
        total_steps: optimiser steps until zero.

    Raises:
        ValueError: unless ``0 <= warmup_steps < total_steps``.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps must be at least 0 and below total_steps, got {warmup_steps} and {total_steps}"
            )

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return 0.5 * (1.0 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
