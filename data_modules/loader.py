"""Loaders that share examples among devices: shuffled and resumable for training, in file order for evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler


class Examples(Dataset[dict[str, Any]]):
    """Examples, and after them the same ones again as fillers, by which every device gets as many.

    An example is a dict; a filler's ``counted`` is 0, so that it changes no loss and no metric.

    Args:
        examples: what to load from.
    """

    def __init__(self, examples: Sequence[dict[str, Any]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an example; from ``len(self)`` on they are fillers."""
        repeated, place = divmod(index, len(self))
        return {**self.examples[place], "counted": 0} if repeated else self.examples[place]


class Share(DistributedSampler[Any]):
    """One device's share of an order: every ``num_replicas``-th example, from position ``start`` on.

    Where the devices would get unequal shares, the order is filled up from its beginning.
    """

    start = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self.whole_order()[self.rank + self.start * self.num_replicas :: self.num_replicas])

    def whole_order(self) -> list[int]:
        """Indices for all devices together: those of one batch on each stand in a row."""
        number = len(self.dataset)  # type: ignore[arg-type]
        order = list(range(number))
        if self.shuffle:
            order = torch.randperm(number, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        offset = number if isinstance(self.dataset, Examples) else 0
        fillers = islice(cycle(order), self.total_size - number)
        return [*order, *(offset + index for index in fillers)]


class OrderedShare(Share, SequentialSampler):
    """A share in file order; Lightning knows by its second base that nothing is shuffled, as for overfitting."""

    def __init__(self, dataset: Any, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)


class ResumableLoader(DataLoader[Any]):
    """Batches whose order is a function of seed and epoch, so that a position in it is all there is to save.

    Lightning stores :meth:`state_dict` in its checkpoints. Iterating draws nothing from the global generators.

    Where ``counts`` are given, every batch says under the same names what the examples of its whole optimiser step add
    up to, over accumulated batches and devices: the order is the same on all of them, so none has to ask.

    Args:
        dataset: what to load from, with a length.
        batch_size: examples per batch and device.
        num_replicas: devices that share each epoch.
        rank: index of this device.
        seed: of the order; ``None`` takes the seed that torch was last given.
        shuffle: give each epoch an order of its own; otherwise all have the file's.
        counts: numbers of each example, by name.
        grouping: asked at the start of an epoch for the batches of an optimiser step and of the epoch, per device;
            ``None`` is a step for each batch.
        **kwargs: see :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int | None = None,
        shuffle: bool = True,
        counts: Mapping[str, Sequence[int]] | None = None,
        grouping: Callable[[], tuple[int, int]] | None = None,
        **kwargs: Any,
    ) -> None:
        seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.examples_per_batch = batch_size
        self.counts = counts or {}
        self.grouping = grouping or (lambda: (1, len(self)))
        self.order = (
            Share(dataset, num_replicas, rank, shuffle=True, seed=seed)
            if shuffle
            else OrderedShare(dataset, num_replicas, rank)
        )
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
        order, (per_step, per_epoch) = self.order.whole_order(), self.grouping()
        for batch in super().__iter__():
            number = self._num_yielded
            self._num_yielded += 1
            if not self.counts:
                yield batch
                continue
            first = number - number % per_step
            width = self.examples_per_batch * self.order.num_replicas
            indices = order[first * width : min(first + per_step, per_epoch) * width]
            yield batch | {name: self._add_up(values, indices) for name, values in self.counts.items()}

    def _add_up(self, values: Sequence[int], indices: Sequence[int]) -> Tensor:
        return torch.tensor(sum(values[index] for index in indices if index < len(values)))  # fillers do not count

    def state_dict(self) -> dict[str, int]:
        """Seed, epoch and the number of its batches that were handed out."""
        return {"seed": self.order.seed, "epoch": self.order.epoch, "num_batches": self._num_yielded}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that were handed out; of another epoch, start at the beginning."""
        self.order.seed = state_dict["seed"]
        self._position = state_dict["epoch"], state_dict["num_batches"]
