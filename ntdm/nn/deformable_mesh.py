"""The deformable mesh of one category, Γ(z) = s * (v + Psi(v, z))  (Eq. 1 of arXiv 2306.00118).

v are the vertices of the unit icosphere, s the category's extents along x, y, z, and Psi moves every vertex:

    Psi(v, z) = network(harmonic embedding of v, z) + sum_k z_k b_k(v)

z has one entry for each of the category's CADs and is one-hot for a CAD that Γ was fitted to; inference
optimises it freely. The offsets b_k [V, 3] are the residual of the network on CAD k: edges, wing tips, legs,
for which a network of bearable size and training time is too smooth over the sphere.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ntdm.config.reading import from_dict
from ntdm.config.stages import ShapeConfig
from ntdm.geometry.mesh import Mesh, icosphere

RETIRED = ("transport_share",)  # keys of version-1 configs that have no effect any more
# Meshes that pass through Psi together. Activations of 32 x 642 x 64 floats (5 MB) stay in the CPU's cache:
# a batch of 288 takes 200 ms forward and backward on one core of a Zen 4 EPYC in pieces, 640 ms whole.
CHUNK = 32


def harmonic_embedding(points: Tensor, frequencies: int) -> Tensor:
    """Positional encoding of points: the point itself, then sin and cos of 2^n point.

    Args:
        points: [..., 3].
        frequencies: n runs from 0 to frequencies - 1.

    Returns:
        [..., 3 + 6 frequencies].
    """
    octaves = 2.0 ** torch.arange(frequencies, dtype=points.dtype, device=points.device)
    phases = (points[..., None, :] * octaves[:, None]).flatten(-2)
    return torch.cat([points, phases.sin(), phases.cos()], -1)


class DeformableMesh(nn.Module):
    """Γ of one category.

    Args:
        config: template and network.
        num_latents: K.

    Attributes:
        config: the ShapeConfig it was built from.
        num_latents: K, entries of z.
        scale: [3] parameter, half extents of the category's mean box, object frame, CAD units.
        offsets: [K, V, 3] parameter, b_k of each CAD, in units of the scale.
    """

    template_vertices: Tensor
    template_faces: Tensor
    embedding: Tensor

    def __init__(self, config: ShapeConfig, num_latents: int) -> None:
        super().__init__()
        if num_latents < 1:
            raise ValueError(f"a deformable mesh needs at least one latent, not {num_latents}")
        self.config = config
        self.num_latents = num_latents
        sphere = icosphere(config.subdivisions)
        self.register_buffer("template_vertices", sphere.vertices)
        self.register_buffer("template_faces", sphere.faces)
        embedding = harmonic_embedding(sphere.vertices, config.frequencies)
        self.register_buffer("embedding", embedding, persistent=False)
        self.scale = nn.Parameter(torch.full((3,), 0.5))
        # The first layer is split in two, W (e, z) = W_e e + W_z z, because the embedding e is constant.
        self.from_embedding = nn.Linear(embedding.shape[1], config.width)
        self.from_latent = nn.Linear(num_latents, config.width, bias=False)
        # The initial bounds are those of one layer of both inputs: those of K inputs alone are far wider.
        bound = 1 / math.sqrt(embedding.shape[1] + num_latents)
        nn.init.uniform_(self.from_latent.weight, -bound, bound)
        hidden: list[nn.Module] = [nn.LayerNorm(config.width), nn.LeakyReLU(inplace=True)]
        for _ in range(config.layers - 1):
            hidden += [
                nn.Linear(config.width, config.width),
                nn.LayerNorm(config.width),
                nn.LeakyReLU(inplace=True),
            ]
        self.hidden = nn.Sequential(*hidden)
        self.last = nn.Linear(config.width, 3)
        # Psi starts near zero, so that fitting starts from the scaled sphere.
        nn.init.xavier_uniform_(self.last.weight, gain=1e-3)
        nn.init.zeros_(self.last.bias)
        self.offsets = nn.Parameter(torch.zeros(num_latents, len(sphere.vertices), 3))
        self._constant: tuple[tuple[Any, ...], Tensor] | None = None

    @property
    def template(self) -> Mesh:
        """The unit icosphere: sphere points [V, 3] and faces [F, 3] of every Γ(z)."""
        return Mesh(self.template_vertices, self.template_faces)

    def forward(self, z: Tensor, scale_factor: Tensor | None = None) -> Tensor:
        """Vertices of Γ(z).

        Differentiable in z, scale_factor and, unless frozen (``requires_grad_(False)``), the weights.
        With frozen weights the embedding's share of the first layer is computed once and kept.

        Args:
            z: [B, K] shape latents.
            scale_factor: [B] extra uniform scale s' of each mesh, or None for 1.

        Returns:
            [B, V, 3] object frame, CAD units.
        """
        if z.ndim != 2 or z.shape[1] != self.num_latents:
            raise ValueError(f"shape latents are {tuple(z.shape)}: want [B, {self.num_latents}]")
        offset = (z @ self.offsets.flatten(1)).view(len(z), *self.template_vertices.shape)
        vertices = self.scale * (self.template_vertices + self.network(z) + offset)
        return vertices if scale_factor is None else vertices * scale_factor[:, None, None]

    def network(self, z: Tensor, which: Tensor | None = None) -> Tensor:
        """The network's term of Psi.

        Args:
            z: [B, K] shape latents.
            which: [W] vertex numbers; None for all V.

        Returns:
            [B, W, 3], in units of the scale.
        """
        constant = self._embedding_term()
        if which is not None:
            constant = constant[which]
        return torch.cat(
            [self.last(self.hidden(constant + self.from_latent(part)[:, None])) for part in z.split(CHUNK)]
        )

    def one_hot(self) -> Tensor:
        """[K, K]: the latents of the CADs that Γ was fitted to."""
        return torch.eye(self.num_latents, dtype=self.scale.dtype, device=self.scale.device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # Weights of version 1 have no offsets: they were 0.
        state_dict.setdefault(f"{prefix}offsets", torch.zeros_like(self.offsets))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _embedding_term(self) -> Tensor:
        weight, bias = self.from_embedding.weight, self.from_embedding.bias
        if torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad):
            return self.from_embedding(self.embedding)
        # Version counters notice every in-place change: optimiser steps, load_state_dict.
        key = (weight.data_ptr(), weight._version, bias._version, weight.dtype, weight.device)
        if self._constant is None or self._constant[0] != key:
            self._constant = (key, self.from_embedding(self.embedding).detach())
        return self._constant[1]


def read_config(values: Mapping[str, Any], source: str) -> ShapeConfig:
    """The ShapeConfig that is written beside a shape or in a run, without its RETIRED keys.

    Args:
        values: key -> value.
        source: the file, for errors.
    """
    return from_dict(ShapeConfig, {k: v for k, v in values.items() if k not in RETIRED}, source)
