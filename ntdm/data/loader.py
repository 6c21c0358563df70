"""The batches of a training, one a step: what is in them depends on the seed and the step alone."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from ntdm.config.stages import TrainConfig
from ntdm.data import distributed
from ntdm.data.augment import draw_augmentation
from ntdm.data.batch import Batch, make_batch
from ntdm.data.dataset import SampleDataset


class Step(NamedTuple):
    """What one step of a training works on."""

    number: int
    samples: list[int]  # of the whole batch, whoever works on it
    batch: Batch  # this process's part, on the device
    generator: torch.Generator  # all further draws of the step


class Batches:
    """The batches of a training. Every draw of a step is from a generator seeded by (seed, step).

    Args:
        data: the samples.
        categories: the model's.
        num_latents: K of each of them.
        config: of the training.
        device: where batches go.
        ahead: make the next batch in a thread while the device works on one. Not on a CPU, which has
            no core to spare.
    """

    def __init__(
        self, data: SampleDataset, categories: Sequence[str], num_latents: Sequence[int], config: TrainConfig,
        device: str, ahead: bool | None = None,
    ) -> None:  # fmt: skip
        self.data, self.categories, self.num_latents, self.config = data, categories, num_latents, config
        self.device = device
        self.ahead = device != "cpu" if ahead is None else ahead
        self.size = min(config.batch_size, len(data))
        self.per_epoch = len(data) // self.size

    def steps(self, numbers: Iterable[int]) -> Iterator[Step]:
        """These steps, in this order."""
        for step in self._prepared(numbers):
            yield step._replace(batch=step.batch.to(self.device))

    def _prepared(self, numbers: Iterable[int]) -> Iterator[Step]:
        if not self.ahead:
            yield from map(self._step, numbers)
            return
        with ThreadPoolExecutor(1, "batches") as thread:
            next_step: Future[Step] | None = None
            for number in numbers:
                ready, next_step = next_step, thread.submit(self._step, number)
                if ready is not None:
                    yield ready.result()
            if next_step is not None:
                yield next_step.result()

    def _step(self, number: int) -> Step:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        place = number % self.per_epoch * self.size
        samples = self._order(number // self.per_epoch)[place : place + self.size]
        augmentation = draw_augmentation(len(samples), self.config, generator)
        shard = distributed.shard(len(samples))
        count = shard.stop - shard.start
        # One more: patches show the next photo.
        places = [i % len(samples) for i in range(shard.start, shard.stop + (count < len(samples)))]
        items = [self.data[samples[i]] for i in places]
        changes = [augmentation[i] for i in places]
        batch = make_batch(items, self.categories, self.num_latents, self.config, changes).first(count)
        return Step(number, samples, batch, generator)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + 500_009 + epoch)
        return torch.randperm(len(self.data), generator=generator).tolist()
