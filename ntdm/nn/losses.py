"""The contrastive loss, Eq. 7 to 9 of arXiv 2306.00118, as one cross entropy (the end of its section 3.3).

Each visible texel's feature is classified among: its own texture feature, far-away texels of the same
category, texels of every other category, and background features. Logits are cosines over a temperature;
a term's weight enters as its logarithm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def texel_cross_entropy(
    features: Tensor,
    positives: Tensor,
    negatives: Tensor,
    log_weight: Tensor,
    far: Tensor,
    temperature: float,
) -> Tensor:
    """Mean cross entropy of N texels, each among its positive and M shared negatives.

    Args:
        features: unit features of the photo at the texels [N, d].
        positives: unit texture features of the same texels [N, d].
        negatives: unit features [M, d].
        log_weight: log of each negative's term weight [M].
        far: bool [N, M]; False removes a negative that lies too near its texel on the surface.
        temperature: of the softmax; NeMo's 0.07, the paper gives none.

    Returns:
        scalar; zero (with a graph) when N is 0.
    """
    if len(features) == 0:
        return features.sum()
    positive = (features * positives).sum(-1) / temperature
    # Finite, so that a texel without any negative has a gradient of zero and not of inf - inf.
    bias = torch.where(far, log_weight, torch.finfo(log_weight.dtype).min / 2)
    negative = torch.addmm(bias, features, negatives.T, alpha=1 / temperature).logsumexp(1)
    return (torch.logaddexp(positive, negative) - positive).mean()


def occlusion_cross_entropy(logit: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy of P hidden cells between "visible" and "hidden".

    Visible cells are those of the texel cross entropy.

    Args:
        logit: [P] foreground_logit of the photo's features and the texture behind the occluder.
        temperature: of the logistic function.

    Returns:
        scalar; zero (with a graph) when P is 0.
    """
    return F.softplus(logit / temperature).sum() / max(len(logit), 1)
