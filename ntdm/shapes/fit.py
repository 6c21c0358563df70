"""Γ(z) from meshes, and latents of CADs that Γ was not fitted to (Eq. 2 of arXiv 2306.00118)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ntdm.config.stages import ShapeConfig
from ntdm.io.progress import track
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.shapes.fit_meshes import History, fit_meshes
from ntdm.shapes.surface_loss import ShapeLoss
from ntdm.shapes.visible_surface import Surface

NETWORK_RATE = 1e-2  # Adam's, at its highest (_rate)
NETWORK_VERTICES = 320  # of each mesh that the network sees in a step
LATENT_STEPS, LATENT_RATE = 150, 0.05  # Adam's, of the latent of a CAD that Γ was not fitted to


class Fit(NamedTuple):
    """Γ and the latents of N CADs under it, both on the CPU.

    Attributes:
        model: Γ.
        latents: [N, K], one row a CAD.
        history: [step, loss] along the descent.
    """

    model: DeformableMesh
    latents: Tensor
    history: History


def fit(surfaces: Sequence[Surface], config: ShapeConfig, label: str, device: str = "cpu") -> Fit:
    """Fit Γ to the K CADs of one category, CAD k at the one-hot latent z_k.

    Args:
        surfaces: of the K CADs.
        config: template, network, loss.
        label: for the progress.
        device: to compute on.

    Returns:
        Γ, the one-hot latents, and [step, loss] of the meshes, about forty times for each template.

    Raises:
        ValueError: the fit diverges.
    """
    meshes, _, history = fit_meshes(surfaces, config, label, device=device)
    model = fit_network(meshes.to(device), config, f"{label}, network").cpu()
    return Fit(model, model.one_hot(), history)


def fit_network(meshes: Tensor, config: ShapeConfig, label: str) -> DeformableMesh:
    """Γ that reproduces meshes [K, V, 3] at one-hot latents, and gives mixtures of them at others.

    The network learns as much of the meshes, and of random mixtures of two of them, as it can; the offsets
    b_k are the rest.

    Args:
        meshes: [K, V, 3] of the template's topology, CAD units, on the device to compute on.
        config: template and network.
        label: for the progress.
    """
    K, device = len(meshes), meshes.device
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = DeformableMesh(config, K).to(device)
    with torch.no_grad():
        extents = meshes.amax(1) - meshes.amin(1)
        # A flat category (a picture frame) still needs a sphere, not a disc of no volume.
        model.scale.copy_((extents.mean(0) / 2).clamp_min(0.02 * float(extents.mean(0).norm())))
        displacement = meshes / model.scale - model.template_vertices  # Psi(v, z_k) of Eq. 1
    weights = [p for name, p in model.named_parameters() if name not in ("scale", "offsets")]
    optimiser = torch.optim.Adam(weights, NETWORK_RATE)
    one_hot, V = model.one_hot(), meshes.shape[1]
    for step in track(range(config.network_steps), label):
        for group in optimiser.param_groups:
            group["lr"] = NETWORK_RATE * _rate(step, config.network_steps)
        other = one_hot[torch.randperm(K, generator=generator)]
        # Half of the latents are one-hot, the others lie anywhere between two of them.
        share = (2 * torch.rand(K, 1, generator=generator) - 1).clamp_min(0).to(device)
        z = torch.lerp(one_hot, other, share)
        which = torch.randperm(V, generator=generator)[:NETWORK_VERTICES].to(device)
        residual = model.network(z, which) - (z @ displacement[:, which].flatten(1)).view(K, -1, 3)
        optimiser.zero_grad()
        residual.square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        model.offsets.copy_(displacement - model.network(one_hot))
    return model


def fit_latents(
    model: DeformableMesh,
    surfaces: Sequence[Surface],
    label: str,
    seed: int = 0,
    device: str = "cpu",
    steps: int = LATENT_STEPS,
) -> Fit:
    """Latents of CADs that Γ was not fitted to: z descends Eq. 2, Psi and s of Eq. 1 stay.

    The start is the one-hot latent whose mesh is nearest by Eq. 2.

    Args:
        model: Γ, frozen.
        surfaces: of the N CADs.
        label: for the progress.
        seed: of the points at which Eq. 2 is taken.
        device: to compute on.
        steps: of Adam.

    Returns:
        Γ, the latents [N, K], and [step, loss] every ten steps.
    """
    model = model.to(device)
    generator = torch.Generator().manual_seed(seed)
    eq2 = ShapeLoss(model.template_faces, surfaces, model.config)
    distances = []
    with torch.no_grad():
        for z in model.one_hot():
            vertices = model(z.expand(len(surfaces), -1))
            points = eq2.draw(vertices, torch.Generator().manual_seed(seed))
            distances.append(eq2.distance(vertices, points))
    z = model.one_hot()[torch.stack(distances).argmin(0)].clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=LATENT_RATE)
    history: History = []
    for step in track(range(steps), label):
        for group in optimiser.param_groups:
            group["lr"] = LATENT_RATE * _rate(step, steps)
        vertices = model(z)
        loss = eq2.distance(vertices, eq2.draw(vertices, generator))
        optimiser.zero_grad()
        loss.sum().backward()  # each CAD by itself: the rate does not depend on their number
        optimiser.step()
        if step % 10 == 0 or step == steps - 1:
            history.append([step, loss.mean().item()])
    return Fit(model.cpu(), z.detach().cpu(), history)


def _rate(step: int, steps: int) -> float:
    """Learning-rate factor: up over the first twentieth, then a cosine down to 0.02."""
    rise = min(1.0, (step + 1) / max(1, steps // 20))
    return rise * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
