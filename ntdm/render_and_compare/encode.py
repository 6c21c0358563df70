"""How well the background explains each cell of a photo, and whether a texture explains it better."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import InferConfig
from ntdm.nn.base import FeatureModel

_MOST_COSINES = 2**27  # of cells and bank features, at a time


class Photos(NamedTuple):
    """Feature maps of a batch and how much each cell looks like background."""

    features: Tensor  # unit [N, h, w, d]
    clutter: Tensor  # f . beta [N, h, w], see encode

    def of(self, rows: Tensor) -> "Photos":
        """Those of the batch's photos with the numbers `rows`."""
        return Photos(self.features[rows], self.clutter[rows])


@torch.no_grad()
def encode(model: FeatureModel, photo: Tensor, config: InferConfig) -> Photos:
    """Features of uint8 photos [N, 3, H, W], and how much each looks like background.

    The bank's features speak for the background as config.clutter says: "nearest" by the most similar one,
    "mean" by their normalised mean, "mixture" by all (clutter_mixture), a nearest one that no single
    feature decides.
    """
    features = model.features(photo)
    bank = model.bank.valid()
    if len(bank) == 0:
        raise ValueError("the model's background bank is empty: it was not trained")
    if config.clutter == "mean":
        return Photos(features, features @ F.normalize(bank.mean(0), dim=0))
    if config.clutter == "nearest":
        return Photos(features, _over_bank(features, bank, lambda cosine: cosine.amax(-1)))
    clutter = clutter_mixture(features, bank, config.clutter_temperature, config.clutter_count)
    return Photos(features, clutter)


def clutter_mixture(features: Tensor, bank: Tensor, temperature: float, count: float) -> Tensor:
    """How much features [..., d] look like background [...]: T log(count / N sum_j exp(f . beta_j / T)).

    Of a bank of N features [N, d], that count as `count`: what the texel cross entropy puts against a texel's
    own feature.
    """
    together = _over_bank(features, bank, lambda cosine: (cosine / temperature).logsumexp(-1))
    return temperature * (together + math.log(count / len(bank)))


def _over_bank(features: Tensor, bank: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """`reduce` of the cosines [n, N] of features [..., d] with the bank's [N, d], some at a time: [...]."""
    parts = features.flatten(0, -2).split(_MOST_COSINES // len(bank) + 1)
    return torch.cat([reduce(part @ bank.T) for part in parts]).reshape(features.shape[:-1])


def foreground_logit(cosine: Tensor, clutter: Tensor) -> Tensor:
    """min(f . f' - f . beta, f . f'): positive where the texture explains a cell, and better than clutter."""
    return torch.minimum(cosine - clutter, cosine)
