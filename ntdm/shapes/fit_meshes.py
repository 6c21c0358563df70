"""K meshes of the template's topology, fitted to the K CADs of a category by Eq. 2, coarse to fine.

They are what Γ is then made of (fit.py). With ``joint`` they start from one another, so that a template
point is the same part on each (initial_meshes.py); without, each CAD is on its own: the ceiling of the
quality table. Equations are those of arXiv 2306.00118.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ntdm.config.stages import ShapeConfig
from ntdm.geometry.mesh import Mesh, face_neighbours, icosphere
from ntdm.io.progress import track
from ntdm.shapes.initial_meshes import Boxes, from_medoid, on_sphere
from ntdm.shapes.outline_loss import Outlines
from ntdm.shapes.smoothing import SmoothDescent, Smoother
from ntdm.shapes.surface_loss import ShapeLoss
from ntdm.shapes.visible_surface import Surface

COARSEST = 3  # subdivisions with which fitting begins: large parts find their place with 642 vertices
# A CAD that is left so much farther away than the median one lacks the medoid's parts (a table on one column
# among tables on four legs). It starts from the sphere as well, and keeps that if it is worth so much.
OUTLIER_RATIO, LEAST_IMPROVEMENT = 2.0, 0.7
# Smoothness of the steps, first and last, on the coarsest template and on finer ones; it falls over this
# share of the steps, in so many stages.
STIFFNESS = ((30.0, 0.2), (4.0, 0.2))
ANNEALED_SHARE, ANNEALING_STAGES = 0.6, 6
LAST_RATE = 0.2  # of the first one, at the end
FINER_RATE = 0.5  # of the coarser template's, on the next one

History = list[list[float]]


def fit_meshes(
    surfaces: Sequence[Surface], config: ShapeConfig, label: str, joint: bool = True, device: str = "cpu"
) -> tuple[Tensor, Mesh, History]:
    """Meshes of one topology, mesh k like CAD k.

    Args:
        surfaces: of the K CADs.
        config: template and loss.
        label: for the progress.
        joint: corresponding vertices are to be corresponding parts; otherwise each CAD for itself.
        device: of the descent; starts and smoothing are computed on the CPU.

    Returns:
        vertices [K, V, 3] in CAD units, their template (the unit icosphere), and [step, loss] about forty
        times; all on the CPU.

    Raises:
        ValueError: the fit diverges.
    """
    generator = torch.Generator().manual_seed(config.seed)
    boxes, outlines = Boxes(surfaces), Outlines(surfaces, config.seed)
    level = min(COARSEST, config.subdivisions)
    template = icosphere(level)
    smoother = Smoother(template.faces)

    def laid(which: Sequence[int]) -> Tensor:
        return torch.stack([on_sphere(boxes, k, template.vertices, smoother, generator) for k in which])

    def fitted(vertices: Tensor, which: Sequence[int], name: str) -> tuple[Tensor, Tensor, History]:
        some = [surfaces[k] for k in which]
        found, left, steps = _descend(
            vertices.to(device),
            template.faces.to(device),
            smoother,
            some,
            outlines.of(which, device),
            config,
            level,
            f"{label}, {name}",
            generator,
        )
        return found.cpu(), left.cpu(), steps

    everyone = list(range(len(surfaces)))
    if joint:
        k = boxes.medoid()
        mesh, _, _ = fitted(laid([k]), [k], "medoid")
        vertices = from_medoid(boxes, mesh[0], k, template.faces, smoother, generator)
    else:
        vertices = laid(everyone)
    vertices, left, history = fitted(vertices, everyone, f"{len(template.vertices)} vertices")
    strangers = [k for k in everyone if left[k] > OUTLIER_RATIO * left.median()] if joint else []
    if strangers:
        own, own_left, _ = fitted(laid(strangers), strangers, f"{len(strangers)} on their own")
        better = own_left < LEAST_IMPROVEMENT * left[strangers]
        vertices[torch.tensor(strangers)[better]] = own[better]
    while level < config.subdivisions:
        edges, _ = face_neighbours(template.faces)  # in the order in which icosphere() halves them
        vertices = torch.cat([vertices, vertices[:, edges].mean(2)], 1)
        level += 1
        template = icosphere(level)
        smoother = Smoother(template.faces)
        vertices, _, steps = fitted(vertices, everyone, f"{len(template.vertices)} vertices")
        done = history[-1][0] + 1
        history += [[done + step, loss] for step, loss in steps]
    return vertices, template, history


def _descend(
    vertices: Tensor,
    faces: Tensor,
    smoother: Smoother,
    surfaces: Sequence[Surface],
    outlines: Outlines,
    config: ShapeConfig,
    level: int,
    label: str,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, History]:
    """`config.steps` smooth steps from vertices [K, V, 3], ever smaller and less smooth.

    Returns:
        vertices; [K] their losses, means over the last tenth of the steps; the history. ValueError where a
        gradient is not finite.
    """
    finer = max(0, level - COARSEST)
    samples = config.surface_samples * (2 if finer else 1)
    loss_of = ShapeLoss(faces, surfaces, config, samples)
    descent = SmoothDescent(smoother, vertices)
    first, last = STIFFNESS[min(finer, 1)]
    history: History = []
    last_steps: list[Tensor] = []
    for step in track(range(config.steps), label):
        share = step / config.steps
        fallen = math.floor(min(1, share / ANNEALED_SHARE) * ANNEALING_STAGES) / ANNEALING_STAGES
        stiffness = first * (last / first) ** fallen
        rate = config.learning_rate * FINER_RATE**finer * LAST_RATE**share
        moving = vertices.requires_grad_()
        loss = loss_of.distance(moving, loss_of.draw(moving, generator)) + loss_of.roughness(moving)
        excess = outlines.excess(moving, faces, config.outline_views, generator)
        (gradient,) = torch.autograd.grad((loss + config.outline_weight * excess).sum(), moving)
        if not torch.isfinite(gradient).all():
            raise ValueError(f"{label} diverged at step {step}: try smaller weights of the regularisers")
        vertices = moving.detach() + loss_of.diagonal * descent.step(gradient, rate, stiffness)
        if step >= 0.9 * config.steps - 1:
            last_steps.append(loss.detach())
        if step % max(1, config.steps // 40) == 0 or step == config.steps - 1:
            history.append([step, loss.mean().item()])
    return vertices, torch.stack(last_steps).mean(0), history
