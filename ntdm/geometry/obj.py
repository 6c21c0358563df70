"""OBJ files, plain or with a texture."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ntdm.geometry.mesh import sphere_uv
from ntdm.io.outputs import atomic_path


def write_obj(
    path: Path, vertices: Tensor, faces: Tensor, sphere_points: Tensor, texture: np.ndarray
) -> Path:
    """A textured mesh as OBJ + MTL + PNG, the three files beside each other.

    Vertices are shared across the texture's seam, so that every edge of a closed mesh keeps its two faces;
    only the texture coordinates are split there.

    Args:
        path: the .obj; the .mtl and .png get the same stem.
        vertices: [V, 3] object frame.
        faces: [F, 3] int64.
        sphere_points: [V, 3] the template point of each vertex.
        texture: [T, T, 3] uint8; row i, column j is the texel centred at v = (i+.5)/T, u = (j+.5)/T.

    Returns:
        path.
    """
    if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3:
        raise ValueError(f"texture of {path} is {texture.dtype} {texture.shape}: want uint8 [T, T, 3]")
    corners = _corner_uv(sphere_points, faces)
    # OBJ counts v from the bottom of the picture.
    vt, number = np.unique(
        np.round(corners * [1, -1] + [0, 1], 6).reshape(-1, 2), axis=0, return_inverse=True
    )
    number = number.reshape(-1, 3)
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    with atomic_path(picture) as part:
        Image.fromarray(texture).save(part)
    with atomic_path(material) as part:
        part.write_text(f"newmtl surface\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {picture.name}\n")
    lines = [
        f"mtllib {material.name}",
        *_vertex_lines(vertices),
        *(f"vt {u:.6f} {v:.6f}" for u, v in vt.tolist()),
    ]
    lines.append("usemtl surface")
    pairs = np.stack([faces.cpu().numpy(), number], -1).reshape(-1, 6) + 1
    lines += ["f {}/{} {}/{} {}/{}".format(*row) for row in pairs.tolist()]
    with atomic_path(path) as part:
        part.write_text("\n".join(lines) + "\n")
    return path


def write_plain_obj(path: Path, vertices: Tensor, faces: Tensor) -> Path:
    """Vertices [V, 3] and faces [F, 3] as an OBJ without material; returns path."""
    lines = [*_vertex_lines(vertices), *("f {} {} {}".format(*row) for row in (faces.cpu() + 1).tolist())]
    with atomic_path(path) as part:
        part.write_text("\n".join(lines) + "\n")
    return path


def _vertex_lines(vertices: Tensor) -> list[str]:
    if not bool(torch.isfinite(vertices).all()):
        raise ValueError("mesh has vertices that are not finite: the fit that made it diverged")
    return ["v {:.6f} {:.6f} {:.6f}".format(*row) for row in vertices.detach().cpu().tolist()]


def _corner_uv(sphere_points: Tensor, faces: Tensor) -> np.ndarray:
    """(u, v) per face corner [F, 3, 2], u unwrapped over the seam (it may pass 1: textures repeat)."""
    uv = sphere_uv(sphere_points.detach().double().cpu()).numpy()[faces.cpu().numpy()]
    u, v = uv[..., 0].copy(), uv[..., 1]
    pole = np.isclose(np.abs(v - 0.5), 0.5, atol=1e-5)
    spread = np.where(pole, -np.inf, u).max(1) - np.where(pole, np.inf, u).min(1)
    u += (spread[:, None] > 0.5) & (u < 0.5)
    # The longitude of a pole, which has none, is the mean of its face's other corners.
    others = np.where(pole, 0, u).sum(1) / np.maximum((~pole).sum(1), 1)
    return np.stack([np.where(pole, others[:, None], u), v], -1)
