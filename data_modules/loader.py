"""A shuffled loader that continues in the middle of an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler


class ResumableSampler(DistributedSampler[Any]):
    """A permutation that depends on seed and epoch alone, from position ``start`` on."""

    start = 0

    def __iter__(self) -> Iterator[Any]:
        return islice(super().__iter__(), self.start, None)


class ResumableLoader(DataLoader[Any]):
    """Shuffled batches whose order is a function of seed and epoch, so that a position in it is all there is to save.

    Lightning stores :meth:`state_dict` in its checkpoints. Iterating draws nothing from the global generators.

    Args:
        dataset: what to load from, with a length.
        batch_size: examples per batch and device.
        num_replicas: devices that share each epoch.
        rank: index of this device.
        seed: of the order; ``None`` takes the seed that torch was last given.
        **kwargs: see :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.examples_per_batch = batch_size
        self.order = ResumableSampler(dataset, num_replicas, rank, shuffle=True, seed=seed)
        super().__init__(dataset, batch_size, sampler=self.order, generator=torch.Generator(), **kwargs)
        self._num_yielded = 0
        self._position: tuple[int, int] | None = None  # epoch and batches to skip in it

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that nothing is decided before the first batch is asked for: Lightning makes the iterator
        # first and sets the sampler's epoch afterwards.
        epoch, skipped = self._position or (self.order.epoch, 0)
        self._position = None
        self._num_yielded = skipped if epoch == self.order.epoch else 0
        self.order.start = self._num_yielded * self.examples_per_batch
        self.generator.manual_seed(self.order.seed + self.order.epoch)
        for batch in super().__iter__():
            self._num_yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Seed, epoch and the number of its batches that were handed out."""
        return {"seed": self.order.seed, "epoch": self.order.epoch, "num_batches": self._num_yielded}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that were handed out; of another epoch, start at the beginning."""
        self.order.seed = state_dict["seed"]
        self._position = state_dict["epoch"], state_dict["num_batches"]
