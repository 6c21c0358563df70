"""Outline loss: the area between a mesh's mask and its CAD's, from many sides, by its derivative.

With M the mesh's mask in a view and T the CAD's,

    d |M xor T| = integral over M's outline of (+1 outside T, -1 inside T) * (outward motion of the outline),

which is the derivative of :meth:`Outlines.excess`; the inside of a mask has none. Eq. 2 hardly sees the web
that a sphere spins between a wing and a fuselage, since it lies close to both; its mask from above does.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt
from torch import Tensor

from ntdm.geometry.camera import Pinhole, angles_from_direction, cam_from_obj
from ntdm.geometry.mesh import box_centre
from ntdm.ops.rasterize import coverage, rasterize
from ntdm.shapes.visible_surface import Surface, directions

VIEWS, SIZE = 24, 96  # directions, evenly over the sphere; pixels along a side of a mask
# Of the cameras, in diagonals of the CAD and in sides of the mask: a diagonal takes up 0.9 of a side.
DISTANCE, FOCAL = 5.0, 4.5


class Outlines:
    """Masks of K CADs, seen from VIEWS directions.

    Args:
        surfaces: of the CADs.
        seed: turns the directions, so that they are not those of the quality table.
    """

    def __init__(self, surfaces: Sequence[Surface], seed: int) -> None:
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
        towards = directions(VIEWS) @ turn.T
        self._angles = angles_from_direction(torch.from_numpy(towards)).float()
        self._diagonal = torch.tensor([s.diagonal for s in surfaces])
        self._centre = torch.stack([box_centre(s.whole) for s in surfaces])
        self._distance = torch.stack([signed_distance(self._masks(k, s)) for k, s in enumerate(surfaces)])

    def select(self, which: Sequence[int], device: str = "cpu") -> "Outlines":
        """The outlines of the CADs `which`, for meshes on the device."""
        subset, rows = copy.copy(self), torch.tensor(which)
        subset._angles = self._angles.to(device)
        subset._diagonal, subset._centre = self._diagonal[rows].to(device), self._centre[rows].to(device)
        subset._distance = self._distance[rows].to(device)
        return subset

    def excess(self, vertices: Tensor, faces: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """The outline loss up to a constant: its derivative is that of the area between the masks.

        Args:
            vertices: [K, V, 3] CAD units.
            faces: [F, 3].
            views: number of views of each mesh.
            generator: of the views.

        Returns:
            [K] diagonals, a mean over the outline's pixels, differentiable with respect to vertices. A pixel
            counts 1 where it lies a pixel or more outside the CAD's mask, -1 inside, 0 on its rim.
        """
        K, device = len(vertices), vertices.device
        pick = torch.stack([torch.randperm(VIEWS, generator=generator)[:views] for _ in range(K)])
        posed = torch.cat([self._posed(vertices[k], k, pick[k]) for k in range(K)])
        count = len(posed)
        view = Pinhole.centred(torch.full((count,), FOCAL * SIZE, device=device), (SIZE, SIZE))
        with torch.no_grad():
            seen = rasterize(posed, faces, *view)
            image, row, column, outward = rim_pixels(seen.face_index >= 0)
            sign = self._distance[torch.arange(K)[:, None], pick].flatten(0, 1)[image, row, column]
            weight = sign / torch.bincount(image, minlength=count).clamp_min(1)[image]
            corner = faces[seen.face_index[image, row, column]] + (image * vertices.shape[1])[:, None]
            barycentric = seen.barycentric[image, row, column]
        outline = (
            posed.reshape(-1, 3).index_select(0, corner.reshape(-1)).view(-1, 3, 3) * barycentric[..., None]
        ).sum(1)
        # Depth is constant: by moving towards the camera every outline would grow.
        depth = -outline[:, 2].detach()
        x, y = outline[:, 0] / depth, outline[:, 1] / depth
        motion = DISTANCE * (x * outward[:, 0] - y * outward[:, 1])  # rows count downwards
        return torch.zeros(count, device=device).index_add(0, image, weight * motion).view(K, views).mean(1)

    def _posed(self, vertices: Tensor, k: int, views: Tensor) -> Tensor:
        """[views, V, 3]: mesh [V, 3] of CAD k in the cameras' frames."""
        distance = (DISTANCE * self._diagonal[k]).expand(len(views), 1)
        viewpoints = torch.cat([self._angles[views], distance], 1)
        return cam_from_obj((vertices - self._centre[k])[None], viewpoints)

    def _masks(self, k: int, surface: Surface) -> np.ndarray:
        view = Pinhole.centred(torch.tensor(FOCAL * SIZE), (SIZE, SIZE))
        posed = self._posed(surface.vertices, k, torch.arange(VIEWS))
        return np.stack([coverage(v, surface.all_faces, *view).numpy() for v in posed])


def signed_distance(masks: np.ndarray) -> Tensor:
    """Signed distance [N, H, W] to the rim of masks, clipped to a pixel: 1 outside, 0 on the rim, -1 inside.

    0 in holes as well: a sphere has none, and would be eaten away between the spokes of a wheel.
    """
    signed = [np.where(m, 1 - distance_transform_edt(m), distance_transform_edt(~m)) for m in masks]
    holes = np.stack([_holes(m) for m in masks])
    return torch.from_numpy(np.where(holes, 0, np.clip(signed, -1, 1)).astype(np.float32))


def _holes(mask: np.ndarray) -> np.ndarray:
    """[H, W]: pixels outside the mask from which the border is reached only by gaps of a pixel or two."""
    closed = binary_closing(np.pad(mask, 2))[2:-2, 2:-2]  # a thin tyre is drawn with gaps
    return (binary_fill_holes(mask) & ~mask) | (binary_fill_holes(closed) & ~closed)


def rim_pixels(inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outermost pixels of masks bool [N, H, W]: image, row, column [P]; outward normals (x, y) [P, 2]."""
    padded = torch.nn.functional.pad(inside.float(), (1, 1, 1, 1))
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    image, row, column = (inside & (around < 4)).nonzero(as_tuple=True)
    # The normal points away from the centroid of the mask's pixels within two rows and columns.
    padded = torch.nn.functional.pad(inside.float(), (2, 2, 2, 2))
    outward = torch.zeros(len(image), 2, device=inside.device)
    for down in range(-2, 3):
        for right in range(-2, 3):
            filled = padded[image, row + 2 + down, column + 2 + right]
            outward[:, 0] -= right * filled
            outward[:, 1] -= down * filled
    return image, row, column, torch.nn.functional.normalize(outward, dim=1)
