"""Neural textures: learned features on the template's UV square, one set a viewing bin (Eq. 4, 5).

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
    """Directions [b, 3] of the viewing bins in the local frame (du, dv, n).

    Bin 0 is the normal; the others tilt it by 60 degrees, evenly around. b = 1 is the paper's
    "single alpha_b" ablation.
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
    """From where each vertex is seen, in its own frame (du, dv, n) of the deformed surface.

    The derivatives along the template's u and v are least-squares fits over the one-ring, constant weights.
    n is their cross product, du the first made orthogonal to n, dv = n x du (towards the upper pole; the
    tilted bins are mirror symmetric, so its sense does not matter).
    """

    ring: Tensor  # [V * 7] vertex indices: up to six neighbours, then the vertex itself
    weights: Tensor  # [V, 2, 7] of d/du and d/dv

    def __init__(self, template: Mesh) -> None:
        super().__init__()
        rings: list[set[int]] = [set() for _ in range(len(template.vertices))]
        for a, b, c in template.faces.tolist():
            rings[a] |= {b, c}
            rings[b] |= {a, c}
            rings[c] |= {a, b}
        width = max(map(len, rings))
        # A five-valent vertex stands in for its own missing neighbour: offset 0, hence weight 0.
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
        """(du, dv, n) of every vertex [B, V, 3], in the same frame: [V, 3, 3, B], axis before xyz."""
        # Vertex-major, [V, 3, B]: gathers move whole runs over the batch.
        points = vertices.permute(1, 2, 0)
        around = points.flatten(1).index_select(0, self.ring).unflatten(0, (len(points), -1))
        along_u, along_v = torch.bmm(self.weights, around).unflatten(2, (3, -1)).unbind(1)
        normal = F.normalize(torch.linalg.cross(along_v, along_u, dim=1), dim=1)
        du = F.normalize(along_u - normal * (normal * along_u).sum(1, keepdim=True), dim=1)
        return torch.stack([du, torch.linalg.cross(normal, du, dim=1), normal], 1)

    @staticmethod
    def seen_from(frames: Tensor, vertices: Tensor, centre: Tensor) -> Tensor:
        """Unit direction to a camera [B, V, 3] in (du, dv, n).

        Args:
            frames: of the surface, as :meth:`frames` gives them; a change of size leaves them as they are.
            vertices: [B, V, 3] object frame.
            centre: [B, 3] of the camera, in the same frame.
        """
        to_camera = F.normalize((centre[:, None] - vertices).permute(1, 2, 0), dim=1)
        return (frames * to_camera[:, None]).sum(2).permute(2, 0, 1)

    def forward(self, vertices_cam: Tensor) -> Tensor:
        """vertices_cam [B, V, 3] -> unit direction to the camera [B, V, 3] in (du, dv, n)."""
        return self.seen_from(self.frames(vertices_cam), vertices_cam, torch.zeros_like(vertices_cam[:, 0]))


class NeuralTexture(nn.Module):
    """One neural texture a category: theta [M, q, q, b, d] with momentum updates."""

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
        """Bin weights [..., b] of view directions [..., 3] of any length in the local frame (Eq. 5)."""
        scale = self.temperature * local_view.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()
        return F.softmax((local_view * scale) @ self.directions.T, -1)

    def lookup(self, map_index: Tensor, uv: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Blended unit features [P, d] and evidence [P] in [0, 1]; see ``texture_lookup``."""
        return texture_lookup(self.theta, self.seen, map_index, uv, alpha)

    def at_texels(self, category: int, texels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Blended unit features [N, d] at texel centres (flat indices [N]) and evidence [N]."""
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
        """`count` seen (texel, bin) features [<=count, d], drawn with replacement, and their texels."""
        candidates = self.seen[category].flatten().nonzero()[:, 0]
        if len(candidates) == 0:
            return self.theta.new_zeros(0, self.theta.shape[-1]), candidates
        pick = candidates[torch.randint(len(candidates), (count,), generator=generator)]
        return self.theta[category].flatten(0, 2)[pick], pick // self.seen.shape[-1]


def texel_points(size: int) -> Tensor:
    """Template sphere points [q * q, 3] under the texel centres u = (j + 0.5) / q, v = (i + 0.5) / q."""
    centre = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(centre * math.pi, centre * 2 * math.pi, indexing="ij")
    return torch.stack([v.sin() * u.cos(), v.sin() * u.sin(), v.cos()], -1).reshape(-1, 3)
