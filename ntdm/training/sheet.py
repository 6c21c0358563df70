"""The contact sheet of a training: what the textures have learned."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ntdm.data.batch import Batch
from ntdm.geometry.mesh import sphere_uv
from ntdm.io.outputs import atomic_path
from ntdm.methods.ntdm import NTDM
from ntdm.viz import pictures

PHOTOS = 6  # of a sheet
HEADINGS = ("as trained on", "object, learned part", "its features", "the texture", "likeness")


@torch.no_grad()
def draw_sheet(model: NTDM, batch: Batch, path: Path) -> Path:
    """What the model sees of the first photos of a batch, a row each; the model is in eval mode.

    The photo as augmented; the object, darker where a patch hides it; the photo's features and the texture at
    the annotated pose, in the colours of the same three principal components; and the cosine of the two, from
    blue (-1) over white to red (1), grey where the texture is not known.
    """
    batch = batch.first(PHOTOS)
    features = model.features(batch.photo)
    rendered, known = _rendered(model, batch, (features.shape[1], features.shape[2]))
    basis = _principal(rendered[known] if known.any() else features.flatten(0, 2))
    height, width = batch.photo.shape[2:]
    hidden = torch.zeros_like(batch.background) if batch.hidden is None else batch.hidden
    assert batch.amodal_mask is not None
    learned = np.where(batch.amodal_mask.cpu(), np.where(hidden.cpu(), 110, 255), 0).astype(np.uint8)
    likeness = _likeness((features * rendered).sum(-1), known)
    rows = []
    for i, photo in enumerate(batch.photo.permute(0, 2, 3, 1).cpu().numpy()):
        cells = (
            _coloured(features[i], basis, torch.ones_like(known[i])),
            _coloured(rendered[i], basis, known[i]),
            likeness[i],
        )
        large = [
            np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.NEAREST)) for c in cells
        ]
        rows.append([photo, np.repeat(learned[i, ..., None], 3, -1), *large])
    sheet = pictures.contact_sheet(rows, [model.categories[c] for c in batch.category], HEADINGS, tile=160)
    with atomic_path(path) as part:
        Image.fromarray(sheet).save(part)
    return path


def _rendered(model: NTDM, batch: Batch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The textures at the annotated poses: unit features [B, h, w, d], and where they are known [B, h, w]."""
    surface = model.annotated_surface(batch, size)
    inside = surface.fragments.face_index >= 0
    which = torch.tensor(batch.category, device=inside.device)[inside.nonzero()[:, 0]]
    alpha = model.texture.alpha(surface.local_view[inside])
    feature, evidence = model.texture.lookup(which, sphere_uv(surface.sphere[inside]), alpha)
    rendered = feature.new_zeros(*inside.shape, feature.shape[-1])
    rendered[inside] = feature
    known = torch.zeros_like(inside)
    known[inside] = evidence > 0
    return rendered, known


def _principal(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean [d], three main directions [d, 3], and what becomes black and white of each [3]."""
    mean = features.mean(0)
    # Of few points there may be fewer directions than three.
    _, _, directions = torch.linalg.svd(features - mean, full_matrices=False)
    axes = F.pad(directions[:3].T, (0, max(0, 3 - len(directions))))
    spread = (features - mean) @ axes
    low, high = spread.quantile(0.02, 0), spread.quantile(0.98, 0)
    return mean, axes, low, high


def _coloured(
    features: Tensor, basis: tuple[Tensor, Tensor, Tensor, Tensor], known: Tensor
) -> NDArray[np.uint8]:
    mean, axes, low, high = basis
    shade = (((features - mean) @ axes - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return torch.where(known[..., None], 255 * shade, 90.0).byte().cpu().numpy()


def _likeness(cosine: Tensor, known: Tensor) -> NDArray[np.uint8]:
    """Blue, white, red of cosines [B, h, w] from -1 to 1."""
    away = 1 - cosine.abs().clamp(0, 1)
    red, blue = torch.where(cosine < 0, away, 1.0), torch.where(cosine > 0, away, 1.0)
    colour = torch.stack([red, away, blue], -1)
    return torch.where(known[..., None], 255 * colour, 128.0).byte().cpu().numpy()
