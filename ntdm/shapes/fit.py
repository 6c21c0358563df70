"""Fitting of Γ(z) to meshes, and of latents to CADs it was not fitted to (Eq. 2 of arXiv 2306.00118)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ntdm.config.stages import ShapeConfig
from ntdm.io.progress import track
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.shapes.fit_meshes import fit_meshes
from ntdm.shapes.surface_loss import ShapeLoss
from ntdm.shapes.visible_surface import Surface

NETWORK_RATE = 1e-2
NETWORK_VERTICES = 320  # of each mesh that the network sees in a step
LATENT_STEPS, LATENT_RATE = 150, 0.05  # of the search for the latent of an unseen CAD


def fit(
    surfaces: Sequence[Surface], config: ShapeConfig, label: str, device: str = "cpu"
) -> tuple[DeformableMesh, list[list[float]]]:
    """Fit Γ to the K CADs of one category, CAD k at the one-hot latent z_k.

    Args:
        surfaces: of the K CADs.
        config: template, network, loss.
        label: for the progress.
        device: to compute on.

    Returns:
        the model, on the CPU, and the history of its meshes, [step, loss] about forty times for each
        template.

    Raises:
        ValueError: the fit diverges.
    """
    meshes, _, history = fit_meshes(surfaces, config, label, device=device)
    return fit_network(meshes.to(device), config, f"{label}, network").cpu(), history


def fit_network(meshes: Tensor, config: ShapeConfig, label: str) -> DeformableMesh:
    """Γ whose one-hot latents give exactly the meshes [K, V, 3], and whose others mixtures of them.

    The network learns as much of the meshes, and of random mixtures of two of them, as it can; the offsets
    are the rest.
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
        wanted = meshes / model.scale - model.template_vertices
    learnt = [p for name, p in model.named_parameters() if name not in ("scale", "offsets")]
    optimiser = torch.optim.Adam(learnt, NETWORK_RATE)
    one_hot, V = model.one_hot(), meshes.shape[1]
    for step in track(range(config.network_steps), label):
        for group in optimiser.param_groups:
            group["lr"] = NETWORK_RATE * _rate(step, config.network_steps)
        other = one_hot[torch.randperm(K, generator=generator)]
        # Half of them are CADs themselves, the others lie anywhere between two.
        share = (2 * torch.rand(K, 1, generator=generator) - 1).clamp_min(0).to(device)
        z = torch.lerp(one_hot, other, share)
        which = torch.randperm(V, generator=generator)[:NETWORK_VERTICES].to(device)
        off = model.network(z, which) - (z @ wanted[:, which].flatten(1)).view(K, -1, 3)
        optimiser.zero_grad()
        off.square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        model.offsets.copy_(wanted - model.network(one_hot))
    return model


def fit_latents(
    model: DeformableMesh, surfaces: Sequence[Surface], label: str, seed: int = 0
) -> tuple[Tensor, list[list[float]]]:
    """Latents of CADs that Γ was not fitted to: z is optimised by Eq. 2, Ψ and s stay as they are.

    The start is the fitted CAD that is nearest by Eq. 2. It is computed on the model's device.

    Returns:
        z [N, K] for the N surfaces, on that device, and the history, [step, loss].
    """
    generator = torch.Generator().manual_seed(seed)
    loss_of = ShapeLoss(model.template_faces, surfaces, model.config)
    nearest = []
    with torch.no_grad():
        for z in model.one_hot():
            vertices = model(z.expand(len(surfaces), -1))
            draw = loss_of.draw(vertices, torch.Generator().manual_seed(seed))
            nearest.append(loss_of.distance(vertices, draw))
    z = model.one_hot()[torch.stack(nearest).argmin(0)].clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=LATENT_RATE)
    history: list[list[float]] = []
    for step in track(range(LATENT_STEPS), label):
        for group in optimiser.param_groups:
            group["lr"] = LATENT_RATE * _rate(step, LATENT_STEPS)
        vertices = model(z)
        loss = loss_of.distance(vertices, loss_of.draw(vertices, generator))
        optimiser.zero_grad()
        loss.sum().backward()  # each CAD by itself: the rate does not depend on their number
        optimiser.step()
        if step % 10 == 0 or step == LATENT_STEPS - 1:
            history.append([step, loss.mean().item()])
    return z.detach(), history


def _rate(step: int, steps: int) -> float:
    """Learning-rate factor: up over the first twentieth, then a cosine down to 0.02."""
    rise = min(1.0, (step + 1) / max(1, steps // 20))
    return rise * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
