"""Neural textures: learned features on the template's UV square, one set a viewing bin.

Equations 4 and 5 of arXiv 2306.00118.

A texture of category c holds theta [q, q, b, d]: at every texel, b unit vectors of d channels, one for
each direction from which that texel may be seen. The bins' directions are fixed in the surface's own
frame (du, dv, n): bin 0 is the normal, bins 1..6 tilt it by 60 degrees towards six directions of the
tangent plane. A pixel that sees the texel from the unit direction c blends them by
alpha = softmax_b(T <c, R_b n>); what it renders is normalise(sum_b alpha_b theta_b).

Unseen (texel, bin) pairs are marked in `seen` and count for nothing: no negative, no evidence.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.geometry.mesh import Mesh, sphere_tangents
from ntdm.ops.texture_lookup import texture_lookup
from ntdm.ops.texture_update import texture_update

TILT = math.radians(60.0)


def bin_directions(view_bins: int) -> Tensor:
    """Directions R_b n of the viewing bins in the local frame (du, dv, n).

    Args:
        view_bins: b. Bin 0 is the normal, the others tilt it by 60 degrees, evenly around; b = 1 is the
            paper's "single alpha_b" ablation.

    Returns:
        [b, 3], unit vectors.
    """
    around = torch.arange(view_bins - 1, dtype=torch.float64) * (2 * math.pi / max(view_bins - 1, 1))
    tilted = torch.stack(
        [
            math.sin(TILT) * around.cos(),
            math.sin(TILT) * around.sin(),
            torch.full_like(around, math.cos(TILT)),
        ],
        -1,
    )
    return torch.cat([torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), tilted]).float()


class LocalView(nn.Module):
    """View directions in the local frame (du, dv, n) of each vertex of a deformed template.

    The derivatives along the template's u and v are least-squares fits over the one-ring, whose weights
    depend on the template alone. n is their cross product, du the first made orthogonal to n, dv = n x du
    (towards the upper pole; the tilted bins are mirror symmetric, so its sense does not matter).

    Args:
        template: the unit icosphere.

    Attributes:
        ring: [V * 7] vertex numbers: up to six neighbours, then the vertex itself.
        weights: [V, 2, 7] of d/du and d/dv.
    """

    ring: Tensor
    weights: Tensor

    def __init__(self, template: Mesh) -> None:
        super().__init__()
        rings: list[set[int]] = [set() for _ in range(len(template.vertices))]
        for a, b, c in template.faces.tolist():
            rings[a] |= {b, c}
            rings[b] |= {a, c}
            rings[c] |= {a, b}
        width = max(map(len, rings))
        # A five-valent vertex is its own sixth neighbour, at offset 0, hence with weight 0.
        neighbours = torch.tensor([sorted(r) + [v] * (width - len(r)) for v, r in enumerate(rings)])
        points = template.vertices.double()
        offsets = points[neighbours] - points[:, None]
        flat = torch.stack([(offsets * axis[:, None]).sum(-1) for axis in sphere_tangents(points)], -1)
        weights = torch.linalg.pinv(flat)
        weights = torch.cat([weights, -weights.sum(-1, keepdim=True)], -1)
        ring = torch.cat([neighbours, torch.arange(len(points))[:, None]], 1).flatten()
        self.register_buffer("ring", ring, persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)

    def frames(self, vertices: Tensor) -> Tensor:
        """Local frames of the surface.

        Args:
            vertices: [B, V, 3], in any frame.

        Returns:
            [V, 3, 3, B] in the same frame: vertex, axis (du, dv, n), xyz, mesh.
        """
        # Vertex-major, [V, 3, B]: gathers move whole runs over the batch.
        points = vertices.permute(1, 2, 0)
        around = points.flatten(1).index_select(0, self.ring).unflatten(0, (len(points), -1))
        along_u, along_v = torch.bmm(self.weights, around).unflatten(2, (3, -1)).unbind(1)
        normal = F.normalize(torch.linalg.cross(along_v, along_u, dim=1), dim=1)
        du = F.normalize(along_u - normal * (normal * along_u).sum(1, keepdim=True), dim=1)
        return torch.stack([du, torch.linalg.cross(normal, du, dim=1), normal], 1)

    @staticmethod
    def seen_from(frames: Tensor, vertices: Tensor, centre: Tensor) -> Tensor:
        """Unit directions from the vertices to a camera, in local frames.

        Args:
            frames: [V, 3, 3, B] of the surface (:meth:`frames`), which uniform scaling does not change.
            vertices: [B, V, 3] object frame.
            centre: [B, 3] of the camera, in the same frame.

        Returns:
            [B, V, 3] in (du, dv, n).
        """
        to_camera = F.normalize((centre[:, None] - vertices).permute(1, 2, 0), dim=1)
        return (frames * to_camera[:, None]).sum(2).permute(2, 0, 1)

    def forward(self, vertices_cam: Tensor) -> Tensor:
        """Vertices [B, V, 3] in the camera frame -> unit directions to it [B, V, 3] in (du, dv, n)."""
        return self.seen_from(self.frames(vertices_cam), vertices_cam, torch.zeros_like(vertices_cam[:, 0]))


class NeuralTexture(nn.Module):
    """One neural texture a category, updated with momentum.

    Args:
        categories: M.
        size: q, texels a side.
        view_bins: b.
        feature_dim: d.
        temperature: T of Eq. 5.

    Attributes:
        theta: [M, q, q, b, d] unit features, zero where never seen.
        seen: [M, q, q, b], 1 where (texel, bin) was updated, else 0.
        directions: [b, 3] of the bins (:func:`bin_directions`).
    """

    theta: Tensor
    seen: Tensor
    directions: Tensor

    def __init__(
        self, categories: int, size: int, view_bins: int, feature_dim: int, temperature: float
    ) -> None:
        super().__init__()
        if view_bins < 1 or size < 2:
            raise ValueError(
                f"neural texture: view_bins {view_bins} and texture_size {size}; want >= 1 and >= 2"
            )
        self.size, self.temperature = size, temperature
        self.register_buffer("theta", torch.zeros(categories, size, size, view_bins, feature_dim))
        self.register_buffer("seen", torch.zeros(categories, size, size, view_bins))
        self.register_buffer("directions", bin_directions(view_bins), persistent=False)

    def alpha(self, local_view: Tensor) -> Tensor:
        """Viewing coefficients alpha_b = softmax_b(T <c, R_b n>) (Eq. 5).

        Args:
            local_view: c [..., 3] in the local frame (du, dv, n), of any length.

        Returns:
            [..., b].
        """
        scale = self.temperature * local_view.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()
        return F.softmax((local_view * scale) @ self.directions.T, -1)

    def lookup(self, map_index: Tensor, uv: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Blended features of P points (Eq. 4), differentiable; see ``ntdm.ops.texture_lookup``.

        Args:
            map_index: [P] category numbers.
            uv: [P, 2].
            alpha: [P, b].

        Returns:
            unit features [P, d] and evidence [P] in [0, 1].
        """
        return texture_lookup(self.theta, self.seen, map_index, uv, alpha)

    def at_texels(self, category: int, texels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Blended features at texel centres (Eq. 4).

        Args:
            category: number of the texture.
            texels: flat indices [N].
            alpha: [N, b].

        Returns:
            unit features [N, d] and evidence [N] in [0, 1].
        """
        weight = alpha * self.seen[category].flatten(0, 1)[texels]
        blended = torch.einsum("nb,nbd->nd", weight, self.theta[category].flatten(0, 1)[texels])
        return F.normalize(blended, dim=-1), weight.sum(-1)

    @torch.no_grad()
    def update(
        self,
        category: int,
        texels: Tensor,
        features: Tensor,
        alpha: Tensor,
        momentum: float,
        first_visit: float,
    ) -> None:
        """theta_b <- normalise(theta_b + (1 - m) alpha_b (f - theta_b)); the first visit sets theta_b = f.

        Args:
            category: number of the texture.
            texels: distinct flat indices [N] of visible texels.
            features: unit features [N, d] scattered from the photo.
            alpha: [N, b].
            momentum: m.
            first_visit: a bin counts as visited for the first time when its alpha exceeds this.
        """
        texture_update(
            self.theta[category].flatten(0, 1), self.seen[category].flatten(0, 1), texels, features, alpha,
            momentum, first_visit,
        )  # fmt: skip

    def sample(self, category: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features of random seen (texel, bin) pairs, drawn with replacement.

        Args:
            category: number of the texture.
            count: n.
            generator: of the CPU.

        Returns:
            unit features [n, d] and their texels [n], flat; both empty where nothing was seen.
        """
        candidates = self.seen[category].flatten().nonzero()[:, 0]
        if len(candidates) == 0:
            return self.theta.new_zeros(0, self.theta.shape[-1]), candidates
        pick = candidates[torch.randint(len(candidates), (count,), generator=generator)]
        return self.theta[category].flatten(0, 2)[pick], pick // self.seen.shape[-1]


def texel_points(size: int) -> Tensor:
    """Template sphere points of the texel centres u = (j + 0.5) / q, v = (i + 0.5) / q.

    Args:
        size: q.

    Returns:
        [q * q, 3], row i before column j.
    """
    centre = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(centre * math.pi, centre * 2 * math.pi, indexing="ij")
    return torch.stack([v.sin() * u.cos(), v.sin() * u.sin(), v.cos()], -1).reshape(-1, 3)
