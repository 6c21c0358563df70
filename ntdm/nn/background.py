"""The background bank, and how much a feature looks like it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_MOST_COSINES = 2**27  # of cells and bank features, at a time


class BackgroundBank(nn.Module):
    """Ring buffer of unit background features [size, d]; `valid` gives those that are held."""

    features: Tensor
    cursor: Tensor

    def __init__(self, size: int, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, feature_dim))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))  # how many were ever pushed

    def valid(self) -> Tensor:
        """The features held [n, d]."""
        return self.features[: min(int(self.cursor), len(self.features))]

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Overwrite the oldest entries by features [n, d]."""
        slots = (self.cursor + torch.arange(len(features), device=features.device)) % len(self.features)
        self.features[slots] = features
        self.cursor += len(features)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` features drawn with replacement; none when the bank is empty."""
        held = self.valid()
        if len(held) == 0:
            return held
        return held[torch.randint(len(held), (count,), generator=generator)]


def clutter_mixture(features: Tensor, bank: Tensor, temperature: float, count: float) -> Tensor:
    """How much features [..., d] look like background [...]: T log(count / N sum_j exp(f . beta_j / T)).

    Of a bank of N features [N, d], that count as `count`: what the texel cross entropy puts against a texel's
    own feature.
    """
    together = _over_bank(features, bank, lambda cosine: (cosine / temperature).logsumexp(-1))
    return temperature * (together + math.log(count / len(bank)))


def nearest_clutter(features: Tensor, bank: Tensor) -> Tensor:
    """Cosine [...] of features [..., d] with the most similar one of the bank [N, d]."""
    return _over_bank(features, bank, lambda cosine: cosine.amax(-1))


def _over_bank(features: Tensor, bank: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """`reduce` of the cosines [n, N] of features [..., d] with the bank's [N, d], some at a time: [...]."""
    parts = features.flatten(0, -2).split(_MOST_COSINES // len(bank) + 1)
    return torch.cat([reduce(part @ bank.T) for part in parts]).reshape(features.shape[:-1])


def foreground_logit(cosine: Tensor, clutter: Tensor) -> Tensor:
    """min(f . f' - f . beta, f . f'): positive where the texture explains a cell, and better than clutter."""
    return torch.minimum(cosine - clutter, cosine)
