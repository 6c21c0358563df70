"""Where the K meshes of a category start, so that a template point is the same part on every CAD.

A transport plan from the sphere to each CAD would put the same template point on a wing here and on the tail
there. So one CAD, the medoid, gets the plan and a fit of its own; its mesh, stretched to the box of every
other CAD and warped towards it by a smooth transport plan, is where that CAD starts.
"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from torch import Tensor

from ntdm.geometry.mesh import vertex_normals
from ntdm.shapes.smoothing import Smoother
from ntdm.shapes.visible_surface import Surface

PLANS = 2  # transport plans that are averaged: one alone is as rough as its random points
NORMAL_COST = 0.2  # opposite normals cost as much as 0.4 of the diagonal, so that a wing keeps two sides
SPHERE_WARP, MESH_WARP = 0.3, 5.0  # smoothness of the displacements, on the sphere and between CADs
COMPARED = 1500  # points of a CAD by which the medoid is found
FLAT = 0.02  # of the diagonal: the least half extent of a box, so that a picture frame still has a volume


class Boxes:
    """K surfaces, each stretched along x, y, z so that all fill one box: the mean of theirs, of diagonal 1.

    Attributes:
        half: [3] half extents of that box.
        points: of the K surfaces in it, a list of [P, 3].
        normals: of the points, a list of [P, 3].
    """

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        all_points = [torch.cat([s.points, s.corners]) for s in surfaces]
        low, high = (torch.stack([f(p, 0).values for p in all_points]) for f in (torch.min, torch.max))
        flat = torch.tensor([[FLAT * s.diagonal] for s in surfaces])
        self._centre, self._half = (low + high) / 2, torch.maximum((high - low) / 2, flat)
        mean = self._half.mean(0)
        self.half = mean / (2 * mean.norm())
        self.points = [self.to_unit_box(s.points, k) for k, s in enumerate(surfaces)]
        stretched = (s.normals * half for s, half in zip(surfaces, self._half, strict=True))
        self.normals = [torch.nn.functional.normalize(n, dim=1) for n in stretched]

    def to_unit_box(self, points: Tensor, k: int) -> Tensor:
        """Points [..., 3] of CAD k, as they lie in the common box."""
        return (points - self._centre[k]) / self._half[k] * self.half

    def from_unit_box(self, points: Tensor, k: int) -> Tensor:
        """Points [..., 3] of the common box, as they lie on CAD k."""
        return points / self.half * self._half[k] + self._centre[k]

    def medoid(self) -> int:
        """The CAD from which the others are least far, by mean distances between nearest points."""
        clouds = [p[:COMPARED].numpy() for p in self.points]
        trees = [KDTree(cloud) for cloud in clouds]
        far = torch.tensor([[tree.query(cloud)[0].mean() for tree in trees] for cloud in clouds])
        return int((far + far.T).sum(1).argmin())


def on_sphere(boxes: Boxes, k: int, sphere: Tensor, smoother: Smoother, generator: torch.Generator) -> Tensor:
    """[V, 3]: template points laid on CAD k by a transport plan from the ellipsoid that fills its box."""
    start = sphere * boxes.half
    aim = _plan(start, sphere, boxes, k, 2 * PLANS, generator)
    return boxes.from_unit_box(start + smoother.fair((aim - start)[None], SPHERE_WARP)[0], k)


def from_medoid(
    boxes: Boxes, mesh: Tensor, medoid: int, faces: Tensor, smoother: Smoother, generator: torch.Generator
) -> Tensor:
    """[K, V, 3]: the medoid's mesh [V, 3], faces [F, 3], stretched to every CAD's box and warped to it."""
    start = boxes.to_unit_box(mesh, medoid)
    (normals,) = vertex_normals(start[None], faces)
    every = range(len(boxes.points))
    aims = torch.stack([_plan(start, normals, boxes, k, PLANS, generator) for k in every])
    warped = start + smoother.fair(aims - start, MESH_WARP)
    return torch.stack([boxes.from_unit_box(warped[k], k) for k in every])


def _plan(
    start: Tensor, normals: Tensor, boxes: Boxes, k: int, plans: int, generator: torch.Generator
) -> Tensor:
    """Where each point should go: the optimal one-to-one plan to area-uniform points of CAD k.

    Args:
        start: [V, 3] points in the common box.
        normals: [V, 3] of the points.
        boxes: the common box of the CADs.
        k: number of the CAD.
        plans: random draws, averaged.
        generator: of the draws.

    Returns:
        [V, 3] in the common box. The cost is the squared distance plus NORMAL_COST^2 times the normals'.
    """
    points, sides = boxes.points[k], boxes.normals[k]
    total = torch.zeros_like(start)
    for _ in range(plans):
        pick = torch.randint(len(points), (len(start),), generator=generator)
        cost = torch.cdist(start, points[pick]).square()
        cost += NORMAL_COST**2 * torch.cdist(normals, sides[pick]).square()
        _, column = linear_sum_assignment(cost.numpy())
        total += points[pick[torch.from_numpy(column)]]
    return total / plans
