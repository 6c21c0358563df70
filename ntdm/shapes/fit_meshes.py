"""K meshes of the template's topology, fitted to the K CADs of a category by Eq. 2, coarse to fine.

Γ is then made of them (fit.py). With ``joint`` all start from the medoid's mesh, so that a template point is
the same part on each (initial_meshes.py); without, each CAD is fitted by itself: the ceiling of the quality
table. Equations are those of arXiv 2306.00118.
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

# Subdivisions of the template with which fitting begins: large parts find their place with 642 vertices.
COARSEST = 3
# Loss of a CAD, in medians of the category's, from which it is an outlier: it lacks the medoid's parts (a
# table on one column among tables on four legs). An outlier is fitted from the sphere as well.
OUTLIER_RATIO = 2.0
# Loss of that second fit, in losses of the first, under which it replaces the first. Corresponding parts are
# worth some loss.
LEAST_IMPROVEMENT = 0.7
# Weight w of the smoother (smoothing.py), first and last step, on the coarsest template and on finer ones,
# whose large parts are in place.
STIFFNESS = ((30.0, 0.2), (4.0, 0.2))
# Share of the steps over which w falls, and in how many stages: each stage factorises the Laplacian anew.
ANNEALED_SHARE, ANNEALING_STAGES = 0.6, 6
LAST_RATE = 0.2  # learning rate of the last step, in first ones
FINER_RATE = 0.5  # learning rate on a template, in those of the next coarser one

History = list[list[float]]


def fit_meshes(
    surfaces: Sequence[Surface],
    config: ShapeConfig,
    label: str,
    joint: bool = True,
    device: str = "cpu",
    outlier_ratio: float = OUTLIER_RATIO,
    least_improvement: float = LEAST_IMPROVEMENT,
) -> tuple[Tensor, Mesh, History]:
    """Meshes of one topology, mesh k like CAD k.

    Args:
        surfaces: of the K CADs.
        config: template and loss.
        label: for the progress.
        joint: corresponding vertices are to be corresponding parts; otherwise each CAD for itself.
        device: of the descent; starts and smoothing are computed on the CPU.
        outlier_ratio: loss in medians from which a CAD is fitted from the sphere as well.
        least_improvement: loss of that fit, in losses of the first, under which it is taken.

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

    def from_sphere(which: Sequence[int]) -> Tensor:
        return torch.stack([on_sphere(boxes, k, template.vertices, smoother, generator) for k in which])

    def descend(start: Tensor, which: Sequence[int], name: str) -> tuple[Tensor, Tensor, History]:
        vertices, losses, steps = _descend(
            start.to(device),
            template.faces.to(device),
            smoother,
            [surfaces[k] for k in which],
            outlines.select(which, device),
            config,
            level,
            f"{label}, {name}",
            generator,
        )
        return vertices.cpu(), losses.cpu(), steps

    every = list(range(len(surfaces)))
    if joint:
        k = boxes.medoid()
        mesh, _, _ = descend(from_sphere([k]), [k], "medoid")
        start = from_medoid(boxes, mesh[0], k, template.faces, smoother, generator)
    else:
        start = from_sphere(every)
    vertices, losses, history = descend(start, every, f"{len(template.vertices)} vertices")
    outliers = [k for k in every if losses[k] > outlier_ratio * losses.median()] if joint else []
    if outliers:
        again, again_losses, _ = descend(from_sphere(outliers), outliers, f"{len(outliers)} on their own")
        better = again_losses < least_improvement * losses[outliers]
        vertices[torch.tensor(outliers)[better]] = again[better]
    while level < config.subdivisions:
        edges, _ = face_neighbours(template.faces)  # in the order in which icosphere() halves them
        vertices = torch.cat([vertices, vertices[:, edges].mean(2)], 1)
        level += 1
        template = icosphere(level)
        smoother = Smoother(template.faces)
        vertices, _, steps = descend(vertices, every, f"{len(template.vertices)} vertices")
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
    """`config.steps` steps down Eq. 2, its regularisers and the outline loss, ever smaller and less smooth.

    Args:
        vertices: [K, V, 3] the start, CAD units.
        faces: [F, 3].
        smoother: of that topology.
        surfaces: of the K CADs.
        outlines: of the K CADs.
        config: weights, steps, rate.
        level: subdivisions of the template.
        label: for the progress.
        generator: of the points and views.

    Returns:
        vertices [K, V, 3]; their losses [K], means over the last tenth of the steps; the history.

    Raises:
        ValueError: a gradient is not finite.
    """
    finer = max(0, level - COARSEST)
    samples = config.surface_samples * (2 if finer else 1)
    eq2 = ShapeLoss(faces, surfaces, config, samples)
    descent = SmoothDescent(smoother, vertices)
    first, last = STIFFNESS[min(finer, 1)]
    history: History = []
    last_losses: list[Tensor] = []
    for step in track(range(config.steps), label):
        share = step / config.steps
        annealed = math.floor(min(1, share / ANNEALED_SHARE) * ANNEALING_STAGES) / ANNEALING_STAGES
        stiffness = first * (last / first) ** annealed
        rate = config.learning_rate * FINER_RATE**finer * LAST_RATE**share
        moving = vertices.requires_grad_()
        loss = eq2.distance(moving, eq2.draw(moving, generator)) + eq2.roughness(moving)
        excess = outlines.excess(moving, faces, config.outline_views, generator)
        (gradient,) = torch.autograd.grad((loss + config.outline_weight * excess).sum(), moving)
        if not torch.isfinite(gradient).all():
            raise ValueError(f"{label} diverged at step {step}: try smaller weights of the regularisers")
        vertices = moving.detach() + eq2.diagonal * descent.step(gradient, rate, stiffness)
        if step >= 0.9 * config.steps - 1:
            last_losses.append(loss.detach())
        if step % max(1, config.steps // 40) == 0 or step == config.steps - 1:
            history.append([step, loss.mean().item()])
    return vertices, torch.stack(last_losses).mean(0), history
