"""Learning rates by hand."""

import pytest
import torch

from models.schedules import CosineWarmup, constant


def rates(schedule: type[CosineWarmup] | object, steps: int, **kwargs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, **kwargs)
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_warmup_rises_and_the_cosine_falls_to_zero() -> None:
    # Warm-up over 1 step from 1/2; then cos over 4 steps: (1 + cos(k pi / 4)) / 2.
    expected = [0.5, 1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0]
    assert rates(CosineWarmup, 7, warmup_steps=1, total_steps=5) == pytest.approx(expected, abs=1e-6)


def test_constant_keeps_the_rate() -> None:
    assert rates(constant, 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("warmup", "total"), [(5, 5), (-1, 5), (0, 0)])
def test_impossible_schedules_are_refused(warmup: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"got {warmup} and {total}"):
        rates(CosineWarmup, 1, warmup_steps=warmup, total_steps=total)
