"""The order of shuffled batches, and continuing in it."""

import random
from itertools import chain

import pytest
import torch

from data_modules.loader import ResumableLoader


def epoch(loader: ResumableLoader, number: int) -> list[list[int]]:
    loader.sampler.set_epoch(number)
    return [batch.tolist() for batch in loader]


def loader(seed: int = 0, **kwargs: int) -> ResumableLoader:
    return ResumableLoader(range(10), batch_size=3, seed=seed, **kwargs)


def test_an_epoch_shows_everything_once_in_its_own_order() -> None:
    first, second = epoch(loader(), 0), epoch(loader(), 1)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert [len(batch) for batch in first] == [3, 3, 3, 1]
    assert first != second
    assert first != epoch(loader(seed=1), 0)


@pytest.mark.parametrize("taken", range(5))
def test_it_continues_where_it_was(taken: int) -> None:
    broken = loader()
    broken.sampler.set_epoch(2)
    batches = iter(broken)
    for _ in range(taken):
        next(batches)
    resumed = loader(seed=7)  # the seed is the saved one
    resumed.load_state_dict(broken.state_dict())
    assert epoch(resumed, 2) == epoch(loader(), 2)[taken:]
    assert epoch(resumed, 3) == epoch(loader(), 3)


def test_a_position_in_another_epoch_is_not_used() -> None:
    finished = loader()
    epoch(finished, 0)
    resumed = loader()
    resumed.load_state_dict(finished.state_dict())
    assert epoch(resumed, 1) == epoch(loader(), 1)


def test_nothing_is_drawn_from_the_global_generators() -> None:
    torch.manual_seed(0)
    before, python_before = torch.get_rng_state(), random.getstate()
    epoch(loader(), 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python_before


def test_replicas_share_an_epoch() -> None:
    shares = [epoch(ResumableLoader(range(8), 2, num_replicas=2, rank=rank, seed=0), 0) for rank in range(2)]
    assert sorted(chain(*chain(*shares))) == list(range(8))
