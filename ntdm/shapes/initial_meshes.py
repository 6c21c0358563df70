"""Initial meshes of a category's K CADs, such that a template point is the same part on every CAD.

Transport plans from the sphere to each CAD would put one template point on a wing here and on the tail there.
So one CAD, the medoid, is reached from the sphere and fitted first; its mesh, stretched to the box of every
other CAD and warped towards it by a smooth transport plan, is the initial mesh of that CAD.
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
# Distance that one unit of difference between normals counts as, in diagonals: opposite normals cost 0.4, so
# that a wing keeps two sides.
NORMAL_COST = 0.2
# Weights of the smoother, for displacements from the sphere and between CADs.
SPHERE_WARP, MESH_WARP = 0.3, 5.0
MEDOID_POINTS = 1500  # of each CAD, whose distances decide the medoid
FLATTEST = 0.02  # half extent of a box, in diagonals, at the least: a picture frame still has a volume


class Boxes:
    """K surfaces, each stretched along x, y, z so that all fill the unit box: the mean of theirs, diagonal 1.

    Attributes:
        half: [3] half extents of the unit box.
        points: of the K surfaces in the unit box, a list of [P, 3].
        normals: of the points, a list of [P, 3].
    """

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        all_points = [torch.cat([s.points, s.corners]) for s in surfaces]
        low, high = (torch.stack([f(p, 0).values for p in all_points]) for f in (torch.min, torch.max))
        flat = torch.tensor([[FLATTEST * s.diagonal] for s in surfaces])
        self._centre, self._half = (low + high) / 2, torch.maximum((high - low) / 2, flat)
        mean = self._half.mean(0)
        self.half = mean / (2 * mean.norm())
        self.points = [self.to_unit_box(s.points, k) for k, s in enumerate(surfaces)]
        stretched = (s.normals * half for s, half in zip(surfaces, self._half, strict=True))
        self.normals = [torch.nn.functional.normalize(n, dim=1) for n in stretched]

    def to_unit_box(self, points: Tensor, k: int) -> Tensor:
        """Points [..., 3] of CAD k in the unit box."""
        return (points - self._centre[k]) / self._half[k] * self.half

    def from_unit_box(self, points: Tensor, k: int) -> Tensor:
        """Points [..., 3] of the unit box on CAD k, CAD units."""
        return points / self.half * self._half[k] + self._centre[k]

    def medoid(self) -> int:
        """Number of the CAD with the least sum of distances to the others, means over nearest points."""
        clouds = [p[:MEDOID_POINTS].numpy() for p in self.points]
        trees = [KDTree(cloud) for cloud in clouds]
        distance = torch.tensor([[tree.query(cloud)[0].mean() for tree in trees] for cloud in clouds])
        return int((distance + distance.T).sum(1).argmin())


def on_sphere(boxes: Boxes, k: int, sphere: Tensor, smoother: Smoother, generator: torch.Generator) -> Tensor:
    """Initial mesh of one CAD, by a transport plan from the ellipsoid that fills the unit box.

    Args:
        boxes: of the CADs.
        k: number of the CAD.
        sphere: [V, 3] template points.
        smoother: of the template.
        generator: of the plans.

    Returns:
        [V, 3] CAD units.
    """
    start = sphere * boxes.half
    target = _plan(start, sphere, boxes, k, 2 * PLANS, generator)
    return boxes.from_unit_box(start + smoother.fair((target - start)[None], SPHERE_WARP)[0], k)


def from_medoid(
    boxes: Boxes, mesh: Tensor, medoid: int, faces: Tensor, smoother: Smoother, generator: torch.Generator
) -> Tensor:
    """Initial meshes of all CADs: the medoid's mesh, stretched to the box of each and warped towards it.

    Args:
        boxes: of the CADs.
        mesh: [V, 3] fitted to the medoid, CAD units.
        medoid: its number.
        faces: [F, 3].
        smoother: of that topology.
        generator: of the plans.

    Returns:
        [K, V, 3] CAD units.
    """
    start = boxes.to_unit_box(mesh, medoid)
    (normals,) = vertex_normals(start[None], faces)
    every = range(len(boxes.points))
    targets = torch.stack([_plan(start, normals, boxes, k, PLANS, generator) for k in every])
    warped = start + smoother.fair(targets - start, MESH_WARP)
    return torch.stack([boxes.from_unit_box(warped[k], k) for k in every])


def _plan(
    start: Tensor, normals: Tensor, boxes: Boxes, k: int, plans: int, generator: torch.Generator
) -> Tensor:
    """Targets of V points: the optimal one-to-one plan to points of CAD k that are uniform by area.

    The cost is the squared distance plus NORMAL_COST^2 times the squared difference of the normals.

    Args:
        start: [V, 3] points in the unit box.
        normals: [V, 3] of the points.
        boxes: of the CADs.
        k: number of the CAD.
        plans: number of plans, each to other points of the CAD, whose targets are averaged.
        generator: of these points.

    Returns:
        [V, 3] in the unit box.
    """
    points, cad_normals = boxes.points[k], boxes.normals[k]
    total = torch.zeros_like(start)
    for _ in range(plans):
        pick = torch.randint(len(points), (len(start),), generator=generator)
        cost = torch.cdist(start, points[pick]).square()
        cost += NORMAL_COST**2 * torch.cdist(normals, cad_normals[pick]).square()
        _, column = linear_sum_assignment(cost.numpy())
        total += points[pick[torch.from_numpy(column)]]
    return total / plans
