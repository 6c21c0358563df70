"""Photos as the solver compares them: features, and how well the background explains each cell.

Equations are those of arXiv 2306.00118: the background is Eq. 6, the gain of a cell a summand of Eq. 10.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import InferConfig
from ntdm.nn.background import clutter_mixture, nearest_clutter
from ntdm.nn.base import FeatureModel

# A texel of which training saw less than this says nothing: neither for the object nor for the background.
LEAST_EVIDENCE = 0.05


class EncodedPhotos(NamedTuple):
    """Feature maps of a batch and how much each cell looks like background."""

    features: Tensor  # unit [N, h, w, d]
    clutter: Tensor  # f . beta [N, h, w], see encode

    def select(self, rows: Tensor) -> "EncodedPhotos":
        """Those of the batch's photos with the numbers `rows` [n]."""
        return EncodedPhotos(self.features[rows], self.clutter[rows])


@torch.no_grad()
def encode(model: FeatureModel, photo: Tensor, config: InferConfig) -> EncodedPhotos:
    """Features of uint8 photos [N, 3, H, W], and how much each looks like background.

    The bank's features speak for the background as config.clutter says: "nearest" by the most similar one,
    "mean" by their normalised mean, "mixture" by all (clutter_mixture), a nearest one that no single
    feature decides.

    Raises:
        ValueError: the background bank is empty, so the model was not trained.
    """
    features = model.features(photo)
    bank = model.bank.valid()
    if len(bank) == 0:
        raise ValueError("the model's background bank is empty: it was not trained")
    if config.clutter == "mean":
        return EncodedPhotos(features, features @ F.normalize(bank.mean(0), dim=0))
    if config.clutter == "nearest":
        return EncodedPhotos(features, nearest_clutter(features, bank))
    clutter = clutter_mixture(features, bank, config.clutter_temperature, config.clutter_count)
    return EncodedPhotos(features, clutter)


def foreground_gain(cosine: Tensor, clutter: Tensor, config: InferConfig) -> Tensor:
    """Summand of Eq. 10: what a cell inside the outline adds to the likelihood, given f . f' and f . beta.

    max(f . f' - f . beta, -kappa); without the background term (Table 3) f . f' of the cells that are
    foreground, and nothing for the others.
    """
    relative = cosine - clutter
    if config.background_term:
        return relative.clamp_min(-config.clutter_weight)
    return torch.where((relative > 0) & (cosine > 0), cosine, 0.0)
