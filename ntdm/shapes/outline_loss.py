"""Outlines of CADs from many sides, and the derivative of the area by which a mesh's outline misses them.

Distances to faces hardly see the web that a sphere spins between a wing and a fuselage: it lies close to
both. From above it is all wrong. With M the mesh's mask in a view and T the CAD's, the area of M outside T
plus that of T outside M changes by the integral over M's outline of (+1 outside T, -1 inside T) times the
outline's outward motion. That is the derivative of :meth:`Outlines.excess`; a mask's inside has none.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt
from torch import Tensor

from ntdm.geometry import camera
from ntdm.geometry.mesh import box_centre
from ntdm.ops.rasterize import coverage, rasterize
from ntdm.shapes.visible_surface import Surface, directions

VIEWS, SIZE = 24, 96  # directions, evenly over the sphere; pixels along a side
# Of the cameras, in diagonals and in sides: a diagonal takes up nine tenths of a side.
DISTANCE, FOCAL = 5.0, 4.5


class Outlines:
    """Masks of K CADs, seen from VIEWS directions.

    Args:
        surfaces: of the CADs.
        seed: turns the directions, so that they are not those of the quality table.
    """

    def __init__(self, surfaces: Sequence[Surface], seed: int) -> None:
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
        towards = np.clip(directions(VIEWS) @ turn.T, -1, 1)
        self._angles = camera.viewpoints_at(towards, 0.0)
        self._diagonal = torch.tensor([s.diagonal for s in surfaces])
        self._centre = torch.stack([box_centre(s.whole) for s in surfaces])
        self._depth = torch.stack([signed_distance(self._masks(k, s)) for k, s in enumerate(surfaces)])

    def of(self, which: Sequence[int], device: str = "cpu") -> "Outlines":
        """Those of some of the CADs, for meshes on the device."""
        some = copy.copy(self)
        chosen = torch.tensor(which)
        some._angles = self._angles.to(device)
        some._diagonal, some._centre = self._diagonal[chosen].to(device), self._centre[chosen].to(device)
        some._depth = self._depth[chosen].to(device)
        return some

    def excess(self, vertices: Tensor, faces: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """What grows as the meshes' outlines move away from the CADs'; only its derivative means anything.

        Args:
            vertices: [K, V, 3] CAD units.
            faces: [F, 3].
            views: number of views of each mesh.
            generator: of the views.

        Returns:
            [K] means over the outlines' pixels of signed lengths in diagonals, differentiable with respect to
            vertices: 1 a pixel or more outside the CAD's mask, -1 inside, 0 on its rim.
        """
        K, device = len(vertices), vertices.device
        pick = torch.stack([torch.randperm(VIEWS, generator=generator)[:views] for _ in range(K)])
        posed = torch.cat([self._posed(vertices[k], k, pick[k]) for k in range(K)])
        count = len(posed)
        focal = torch.full((count,), FOCAL * SIZE, device=device)
        principal_point = torch.full((count, 2), SIZE / 2, device=device)
        with torch.no_grad():
            seen = rasterize(posed, faces, focal, principal_point, (SIZE, SIZE))
            image, row, column, outward = rim_pixels(seen.face_index >= 0)
            wrong = self._depth[torch.arange(K)[:, None], pick].flatten(0, 1)[image, row, column]
            share = wrong / torch.bincount(image, minlength=count).clamp_min(1)[image]
            corner = faces[seen.face_index[image, row, column]] + (image * vertices.shape[1])[:, None]
            weights = seen.barycentric[image, row, column]
        outline = (
            posed.reshape(-1, 3).index_select(0, corner.reshape(-1)).view(-1, 3, 3) * weights[..., None]
        ).sum(1)
        # Depth is held: moving towards the camera would make every outline grow.
        depth = -outline[:, 2].detach()
        x, y = outline[:, 0] / depth, outline[:, 1] / depth
        moved = DISTANCE * (x * outward[:, 0] - y * outward[:, 1])  # of a row y points down
        return torch.zeros(count, device=device).index_add(0, image, share * moved).view(K, views).mean(1)

    def _posed(self, vertices: Tensor, k: int, views: Tensor) -> Tensor:
        """[views, V, 3]: mesh [V, 3] of CAD k in the cameras' frames."""
        viewpoints = self._angles[views].clone()
        viewpoints[:, 3] = DISTANCE * self._diagonal[k]
        return camera.cam_from_obj((vertices - self._centre[k])[None], viewpoints)

    def _masks(self, k: int, surface: Surface) -> np.ndarray:
        camera_of = (torch.tensor(FOCAL * SIZE), torch.full((2,), SIZE / 2), (SIZE, SIZE))
        posed = self._posed(surface.vertices, k, torch.arange(VIEWS))
        return np.stack([coverage(v, surface.all_faces, *camera_of).numpy() for v in posed])


def signed_distance(masks: np.ndarray) -> Tensor:
    """[N, H, W] in -1..1: 0 on the masks' outermost pixels, 1 more a pixel outwards, 1 less inwards.

    0 also in holes, of which a sphere has none: it would be eaten away between the spokes of a wheel.
    """
    signed = [np.where(m, 1 - distance_transform_edt(m), distance_transform_edt(~m)) for m in masks]
    holes = np.stack([_holes(m) for m in masks])
    return torch.from_numpy(np.where(holes, 0, np.clip(signed, -1, 1)).astype(np.float32))


def _holes(mask: np.ndarray) -> np.ndarray:
    """[H, W]: what lies outside the mask and cannot leave it but by gaps of a pixel or two."""
    closed = binary_closing(np.pad(mask, 2))[2:-2, 2:-2]  # a thin tyre is drawn with gaps
    return (binary_fill_holes(mask) & ~mask) | (binary_fill_holes(closed) & ~closed)


def rim_pixels(inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of masks [N, H, W]: image, row and column [P] of their outermost pixels, and [P, 2] (x, y) outwards."""
    padded = torch.nn.functional.pad(inside.float(), (1, 1, 1, 1))
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    image, row, column = (inside & (around < 4)).nonzero(as_tuple=True)
    # Away from the middle of the mask's part within two pixels.
    padded = torch.nn.functional.pad(inside.float(), (2, 2, 2, 2))
    outward = torch.zeros(len(image), 2, device=inside.device)
    for down in range(-2, 3):
        for right in range(-2, 3):
            here = padded[image, row + 2 + down, column + 2 + right]
            outward[:, 0] -= right * here
            outward[:, 1] -= down * here
    return image, row, column, torch.nn.functional.normalize(outward, dim=1)
