"""Eq. 2 of arXiv 2306.00118 and its regularisers: how far Γ(z_k) is from CAD k, in both directions.

Only the surface seen from outside counts (visible_surface.py). The nearest face is found without gradient and
the distance recomputed from the foot point. With the foot point's barycentric weights held, its derivative is
that of the distance itself, because the weights minimise it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ntdm.config.stages import ShapeConfig
from ntdm.geometry.mesh import face_neighbours, face_normals
from ntdm.shapes.nearest_faces import nearest_faces, points_on_faces
from ntdm.shapes.visible_surface import Surface

# Distance d counts as sqrt(d^2 + ROUND^2) - ROUND, all in diagonals. Squares would let a web between wing and
# fuselage stand, which is nowhere far away; d itself has no derivative at 0.
ROUND = 0.004


class Draw(NamedTuple):
    """Points of one step, at which Eq. 2 is taken.

    Attributes:
        cad_points: [K, P, 3] on the CADs, CAD units.
        vertex: [Q] vertices of Γ.
        face: [K, R] faces of Γ, one of each further point.
        weights: [K, R, 3] barycentric weights of these points.
        area: [K, R] twice the areas that the faces had when they were drawn.
    """

    cad_points: Tensor
    vertex: Tensor
    face: Tensor
    weights: Tensor
    area: Tensor


class ShapeLoss:
    """Eq. 2 and its regularisers for K meshes of one topology; lengths in units of each CAD's diagonal.

    Args:
        faces: [F, 3] of every Γ(z_k), on the device where the loss is computed.
        surfaces: of the K CADs.
        config: weights and, unless given as `samples`, how many points are drawn from a CAD and from its Γ.
    """

    def __init__(
        self, faces: Tensor, surfaces: Sequence[Surface], config: ShapeConfig, samples: int | None = None
    ) -> None:
        self.faces, self.config, self.surfaces = faces, config, surfaces
        self.samples = samples or config.surface_samples
        self.diagonal = torch.tensor([s.diagonal for s in surfaces])[:, None, None].to(faces.device)
        self.unit = float(self.diagonal.max())
        cads = [(s.vertices.to(faces.device), s.faces.to(faces.device)) for s in surfaces]
        self.cads = nearest_faces(cads, self.unit)
        self.edges, self.edge_faces = face_neighbours(faces)
        V = int(faces.max()) + 1
        self.degree = torch.bincount(self.edges.reshape(-1), minlength=V)[:, None]

    def draw(self, vertices: Tensor, generator: torch.Generator) -> Draw:
        """Random points of one step, drawn on the CPU, so that every device gets the same.

        On a CAD four fifths lie on the visible surface, uniform by area, and a fifth are visible vertices. On
        Γ a sixth are vertices, the others lie on faces, uniform by area: they alone notice a face that spans
        the air from handlebar to saddle.

        Args:
            vertices: [K, V, 3] of the meshes Γ.
            generator: of the CPU.
        """
        count = self.samples
        cad_points = torch.stack([_cad_points(s, count, generator) for s in self.surfaces])
        areas = self.areas(vertices.detach()).cpu()
        few = max(1, count // 6)
        face = torch.multinomial(areas, count - few, replacement=True, generator=generator)
        weights = -torch.rand(*face.shape, 3, generator=generator).clamp_min(1e-9).log()
        draw = Draw(
            cad_points,
            torch.randint(vertices.shape[1], (few,), generator=generator),
            face,
            weights / weights.sum(-1, keepdim=True),
            areas.gather(1, face),
        )
        return Draw(*(part.to(vertices.device) for part in draw))

    def distance(self, vertices: Tensor, draw: Draw) -> Tensor:
        """Eq. 2 of each mesh: mean rounded distance of the CAD's points to Γ, plus that of Γ's to the CAD.

        The mean over Γ's faces is an integral over its surface, and is weighted by the faces' areas: their
        derivative lets a sheet between two arms shrink, which cannot move to both.

        Args:
            vertices: [K, V, 3] CAD units.
            draw: the points at which Eq. 2 is taken.

        Returns:
            [K] diagonals, differentiable with respect to vertices.
        """
        gamma = nearest_faces([(v, self.faces) for v in vertices.detach()], self.unit)
        face, weights, _ = gamma(draw.cad_points)
        to_gamma = (points_on_faces(vertices, self.faces[face], weights) - draw.cad_points) / self.diagonal
        on_faces = points_on_faces(vertices, self.faces[draw.face], draw.weights)
        points = torch.cat([vertices.index_select(1, draw.vertex), on_faces], 1)
        to_cad = _rounded((points - self.cads(points)[2]) / self.diagonal)
        growth = self.areas(vertices).gather(1, draw.face) / draw.area
        few = len(draw.vertex)
        to_cad = torch.cat([to_cad[:, :few], growth * to_cad[:, few:]], 1)
        return _rounded(to_gamma).mean(1) + to_cad.mean(1)

    def areas(self, vertices: Tensor) -> Tensor:
        """[K, F]: twice the area of each face; never 0, so that each can be drawn and divided by."""
        return face_normals(vertices, self.faces).norm(dim=-1).clamp_min(1e-12)

    def roughness(self, vertices: Tensor) -> Tensor:
        """[K]: weighted normal consistency (1 - cos over edges) and uniform Laplacian of meshes [K, V, 3]."""
        normals = torch.nn.functional.normalize(face_normals(vertices, self.faces), dim=-1)
        left, right = (normals.index_select(1, self.edge_faces[:, k]) for k in (0, 1))
        bend = (1 - (left * right).sum(-1)).mean(1)
        unit = vertices / self.diagonal
        a, b = (unit.index_select(1, self.edges[:, k]) for k in (0, 1))
        around = torch.zeros_like(unit).index_add(1, self.edges[:, 0], b).index_add(1, self.edges[:, 1], a)
        laplacian = (unit - around / self.degree).square().sum(-1).mean(1)
        return self.config.normal_weight * bend + self.config.laplacian_weight * laplacian


def _rounded(offset: Tensor) -> Tensor:
    """sqrt(|x|^2 + ROUND^2) - ROUND [...] of offsets x [..., 3]."""
    return (offset.square().sum(-1) + ROUND**2).sqrt() - ROUND


def _cad_points(surface: Surface, count: int, generator: torch.Generator) -> Tensor:
    """`count` points [count, 3] of a CAD: four fifths by area, the rest vertices, where the details are."""
    few = count // 5
    by_area = torch.randint(len(surface.points), (count - few,), generator=generator)
    at_corners = torch.randint(len(surface.corners), (few,), generator=generator)
    return torch.cat([surface.points[by_area], surface.corners[at_corners]])
