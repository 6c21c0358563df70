"""How well the background explains each cell of a photo, and whether a texture explains it better."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import InferConfig
from ntdm.nn.background import _over_bank, clutter_mixture
from ntdm.nn.base import FeatureModel


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
