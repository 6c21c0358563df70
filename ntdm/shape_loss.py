"""Eq. 2 of the main paper and its regularisers: how far Γ(z_k) is from CAD k, in both directions.

Only the surface seen from outside counts (surface.py). The nearest face is found without gradient and the
distance recomputed from the foot point. With the foot point's barycentric weights held, its derivative is
that of the distance itself, because the weights minimise it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ntdm.config import ShapeConfig
from ntdm.mesh import face_neighbours, face_normals
from ntdm.surface import NearestFaces, Surface, points_on_faces

PLANS = 2  # transport plans that are averaged: one alone is as rough as its random points
NORMAL_COST = 0.1  # opposite normals cost as much as 0.2 of the diagonal, so that a wing keeps two sides


def transport_targets(surface: Surface, sphere: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Where each template point should go: the optimal one-to-one plan to area-uniform points of the surface.

    Args:
        surface: of one CAD. sphere: [V, 3] template points. scale: [3] the category's half extents.
        generator: of the surface's random points.

    Returns:
        [V, 3]: mean over PLANS plans, CAD units. The cost is the squared distance from scale * sphere, in
        diagonals, plus NORMAL_COST^2 times that of the normals.
    """
    start = torch.cat([scale * sphere / surface.diagonal, NORMAL_COST * sphere], 1)
    total = torch.zeros_like(sphere)
    for _ in range(PLANS):
        pick = torch.randint(len(surface.points), (len(sphere),), generator=generator)
        end = torch.cat([surface.points[pick] / surface.diagonal, NORMAL_COST * surface.normals[pick]], 1)
        _, column = linear_sum_assignment(torch.cdist(start, end).square().numpy())
        total += surface.points[pick[torch.from_numpy(column)]]
    return total / PLANS


class Draw(NamedTuple):
    """Points of one step, at which Eq. 2 is taken.

    Fields:
        wanted [K, P, 3]: of the CADs. vertex [Q]: vertices of Γ.
        face [K, R], weights [K, R, 3]: points of Γ's faces, barycentric; area [K, R]: twice the faces' areas
        when they were drawn.
    """

    wanted: Tensor
    vertex: Tensor
    face: Tensor
    weights: Tensor
    area: Tensor


class ShapeLoss:
    """Eq. 2 and its regularisers for K meshes of one topology; lengths in units of each CAD's diagonal.

    Args:
        faces: [F, 3] of every Γ(z_k). surfaces: of the K CADs. config: counts and weights.
    """

    def __init__(self, faces: Tensor, surfaces: Sequence[Surface], config: ShapeConfig) -> None:
        self.faces, self.config, self.surfaces = faces, config, surfaces
        self.diagonal = torch.tensor([s.diagonal for s in surfaces])[:, None, None]
        self.unit = float(self.diagonal.max())
        self.cads = NearestFaces([(s.vertices.numpy(), s.faces.numpy()) for s in surfaces], self.unit)
        self.edges, self.edge_faces = face_neighbours(faces)
        V = int(faces.max()) + 1
        self.degree = torch.bincount(self.edges.reshape(-1), minlength=V)[:, None]

    def draw(self, vertices: Tensor, generator: torch.Generator) -> Draw:
        """The points of one step. On a CAD: by area on its visible surface, and its visible vertices.

        On Γ: a sixth vertices, the rest by area on its faces, which alone notice a face that spans the air
        from handlebar to saddle.
        """
        count = self.config.surface_samples
        wanted = torch.stack([_draw(s, count, generator) for s in self.surfaces])
        areas = self.areas(vertices.detach())
        few = max(1, count // 6)
        face = torch.multinomial(areas, count - few, replacement=True, generator=generator)
        weights = -torch.rand(*face.shape, 3, generator=generator).clamp_min(1e-9).log()
        return Draw(
            wanted,
            torch.randint(vertices.shape[1], (few,), generator=generator),
            face,
            weights / weights.sum(-1, keepdim=True),
            areas.gather(1, face),
        )

    def distance(self, vertices: Tensor, draw: Draw) -> Tensor:
        """Eq. 2 of each mesh: mean squared distance of the CAD's points to Γ, plus that of Γ's to the CAD.

        The mean over Γ's faces is an integral over its surface, whose area has a derivative too: a sheet
        between two arms cannot go to both, but it can shrink.

        Args:
            vertices: [K, V, 3] CAD units. draw: the points at which it is taken.

        Returns:
            [K] squared diagonals, differentiable with respect to vertices.
        """
        gamma = NearestFaces([(v, self.faces.numpy()) for v in vertices.detach().numpy()], self.unit)
        face, weights, _ = gamma(draw.wanted)
        to_gamma = (points_on_faces(vertices, self.faces[face], weights) - draw.wanted) / self.diagonal
        on_faces = points_on_faces(vertices, self.faces[draw.face], draw.weights)
        points = torch.cat([vertices.index_select(1, draw.vertex), on_faces], 1)
        to_cad = ((points - self.cads(points)[2]) / self.diagonal).square().sum(-1)
        grown = self.areas(vertices).gather(1, draw.face) / draw.area
        few = len(draw.vertex)
        to_cad = torch.cat([to_cad[:, :few], grown * to_cad[:, few:]], 1)
        return to_gamma.square().sum(-1).mean(1) + to_cad.mean(1)

    def areas(self, vertices: Tensor) -> Tensor:
        """[K, F]: twice the area of each face; never 0, so that each can be drawn and divided by."""
        return face_normals(vertices, self.faces).norm(dim=-1).clamp_min(1e-12)

    def roughness(self, vertices: Tensor) -> Tensor:
        """Weighted normal consistency (1 - cos over edges) and uniform Laplacian of vertices [K, V, 3]."""
        normals = torch.nn.functional.normalize(face_normals(vertices, self.faces), dim=-1)
        left, right = (normals.index_select(1, self.edge_faces[:, k]) for k in (0, 1))
        bend = (1 - (left * right).sum(-1)).mean()
        unit = vertices / self.diagonal
        a, b = (unit.index_select(1, self.edges[:, k]) for k in (0, 1))
        around = torch.zeros_like(unit).index_add(1, self.edges[:, 0], b).index_add(1, self.edges[:, 1], a)
        laplacian = (unit - around / self.degree).square().sum(-1).mean()
        return self.config.normal_weight * bend + self.config.laplacian_weight * laplacian


def _draw(surface: Surface, count: int, generator: torch.Generator) -> Tensor:
    """count points of a CAD: four fifths by area, the rest vertices, where the details are."""
    few = count // 5
    by_area = torch.randint(len(surface.points), (count - few,), generator=generator)
    at_corners = torch.randint(len(surface.corners), (few,), generator=generator)
    return torch.cat([surface.points[by_area], surface.corners[at_corners]])
