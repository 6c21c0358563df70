"""Fragments: what each pixel of a rendered mesh sees; and, for sums without atomics, lists over them.

A sum over the pixels of a face, or over the faces of a vertex, runs on CUDA through lists that stable sorts
make: one team adds them up in their order, so the same input gives the same bits.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Fragments(NamedTuple):
    """What each pixel sees.

    Fields:
        face_index [B, H, W] int64, -1 where no face.
        barycentric [B, H, W, 3] perspective-correct weights of the face's corners, 0 where no face.
        depth [B, H, W] in the vertices' unit, inf where no face.
        dropped [B] int64: faces dropped at the near plane or for not being finite.
    """

    face_index: Tensor
    barycentric: Tensor
    depth: Tensor
    dropped: Tensor


def pixels_by_face(face_index: Tensor, faces: int) -> tuple[Tensor, Tensor]:
    """Pixels of every item's every face: where each list starts [B F + 1], the pixels list after list."""
    batch = face_index.shape[0]
    first = faces * torch.arange(batch, device=face_index.device)[:, None, None]
    key = torch.where(face_index < 0, batch * faces, face_index + first).flatten()
    return _grouped(key, batch * faces)


def corners_by_vertex(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """Places in faces.flatten() of every vertex: where each list starts [V + 1], the places."""
    return _grouped(faces.flatten(), vertices)


def _grouped(key: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    sorted_key, member = key.sort(stable=True)
    return torch.searchsorted(sorted_key, torch.arange(groups + 1, device=key.device)), member
