"""The bank of background features beta, and how much a feature looks like it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_MOST_COSINES = 2**27  # of cells and bank features, at a time


class BackgroundBank(nn.Module):
    """Ring buffer of unit background features.

    Args:
        size: number of slots.
        feature_dim: d.

    Attributes:
        features: [size, d]; slots that were never written are zero.
        cursor: [] int64, how many features were ever pushed.
    """

    features: Tensor
    cursor: Tensor

    def __init__(self, size: int, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, feature_dim))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))

    def valid(self) -> Tensor:
        """The features [n, d] of the slots that were written."""
        return self.features[: min(int(self.cursor), len(self.features))]

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Overwrite the oldest entries by features [n, d]; of more than there are slots the last stay."""
        last = features[-len(self.features) :]
        # Each slot is written once: of two writes CUDA does not say which one stays.
        first = self.cursor + len(features) - len(last)
        slots = (first + torch.arange(len(last), device=features.device)) % len(self.features)
        self.features[slots] = last
        self.cursor += len(features)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` features drawn with replacement [count, d]; [0, d] when the bank is empty."""
        features = self.valid()
        if len(features) == 0:
            return features
        return features[torch.randint(len(features), (count,), generator=generator)]


def clutter_mixture(features: Tensor, bank: Tensor, temperature: float, count: float) -> Tensor:
    """Background similarity of features: T log(count / N sum_j exp(f . beta_j / T)), a soft maximum.

    The texel cross entropy (losses.py) puts the same sum against a texel's own feature.

    Args:
        features: unit features f [..., d].
        bank: unit background features beta [N, d].
        temperature: T.
        count: how many features the bank counts as, whatever N.

    Returns:
        [...].
    """
    log_sum = _over_bank(features, bank, lambda cosine: (cosine / temperature).logsumexp(-1))
    return temperature * (log_sum + math.log(count / len(bank)))


def nearest_clutter(features: Tensor, bank: Tensor) -> Tensor:
    """Cosine [...] of features [..., d] with the most similar one of the bank [N, d]."""
    return _over_bank(features, bank, lambda cosine: cosine.amax(-1))


def _over_bank(features: Tensor, bank: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """`reduce` over the bank [N, d] of the cosines [n, N] of features [..., d], some at a time: [...]."""
    parts = features.flatten(0, -2).split(_MOST_COSINES // len(bank) + 1)
    return torch.cat([reduce(part @ bank.T) for part in parts]).reshape(features.shape[:-1])


def foreground_logit(cosine: Tensor, clutter: Tensor) -> Tensor:
    """min(f . f' - c, f . f'): positive where the texture explains a cell, and better than the background.

    Args:
        cosine: f . f' of features and texture [...].
        clutter: c, the background similarity of the features [...].
    """
    return torch.minimum(cosine - clutter, cosine)
