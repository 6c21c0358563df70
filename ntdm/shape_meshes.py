"""K meshes of the template's topology, fitted to the K CADs of a category by Eq. 2, coarse to fine.

They are what Γ is then made of (shape_fit.py). With ``joint`` they start from one another, so that a template
point is the same part on each (shape_start.py); without, each CAD is on its own: the ceiling of the quality
table.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ntdm.config import ShapeConfig
from ntdm.mesh import Mesh, face_neighbours, icosphere
from ntdm.outlines import Outlines
from ntdm.progress import track
from ntdm.shape_loss import ShapeLoss
from ntdm.shape_start import Boxes, from_medoid, on_sphere
from ntdm.smoothing import SmoothDescent, Smoother
from ntdm.surface import Surface

COARSEST = 3  # subdivisions with which fitting begins: large parts find their place with 642 vertices
# Smoothness of the steps, first and last, on the coarsest template and on finer ones; it falls over this
# share of the steps, in so many stages.
STIFF = ((30.0, 0.2), (4.0, 0.2))
FALL, STAGES = 0.6, 6
LAST_RATE = 0.2  # of the first one, at the end
FINER_RATE = 0.5  # of the coarser template's, on the next one

History = list[list[float]]


def fit_meshes(
    surfaces: Sequence[Surface], config: ShapeConfig, label: str, joint: bool = True
) -> tuple[Tensor, Mesh, History]:
    """Meshes of one topology, mesh k like CAD k.

    Args:
        surfaces: of the K CADs. config: template and loss. label: for the progress.
        joint: corresponding vertices are to be corresponding parts; otherwise each CAD for itself.

    Returns:
        vertices [K, V, 3] in CAD units, their template (the unit icosphere), and [step, loss] about forty
        times. ValueError if the fit diverges.
    """
    generator = torch.Generator().manual_seed(config.seed)
    boxes, outlines = Boxes(surfaces), Outlines(surfaces, config.seed)
    level = min(COARSEST, config.subdivisions)
    template = icosphere(level)
    smoother = Smoother(template.faces)
    if joint:
        k = boxes.medoid()
        start = on_sphere(boxes, k, template.vertices, smoother, generator)[None]
        only = [surfaces[k]]
        mesh, _ = _descend(
            start, template, smoother, only, outlines.of([k]), config, level, f"{label}, medoid", generator
        )
        vertices = from_medoid(boxes, mesh[0], k, template.faces, smoother, generator)
    else:
        each = range(len(surfaces))
        vertices = torch.stack([on_sphere(boxes, k, template.vertices, smoother, generator) for k in each])
    history: History = []
    while True:
        name = f"{label}, {len(template.vertices)} vertices"
        vertices, steps = _descend(
            vertices, template, smoother, surfaces, outlines, config, level, name, generator
        )
        done = len(history) and history[-1][0] + 1
        history += [[done + step, loss] for step, loss in steps]
        if level == config.subdivisions:
            break
        edges, _ = face_neighbours(template.faces)  # in the order in which icosphere() halves them
        vertices = torch.cat([vertices, vertices[:, edges].mean(2)], 1)
        level += 1
        template = icosphere(level)
        smoother = Smoother(template.faces)
    if not math.isfinite(history[-1][1]):
        raise ValueError(f"{label} diverged: try a smaller learning_rate than {config.learning_rate}")
    return vertices, template, history


def _descend(
    vertices: Tensor,
    template: Mesh,
    smoother: Smoother,
    surfaces: Sequence[Surface],
    outlines: Outlines,
    config: ShapeConfig,
    level: int,
    label: str,
    generator: torch.Generator,
) -> tuple[Tensor, History]:
    """`config.steps` smooth steps from vertices [K, V, 3], ever smaller and less smooth."""
    finer = max(0, level - COARSEST)
    samples = config.surface_samples * (2 if finer else 1)
    loss_of = ShapeLoss(template.faces, surfaces, config, samples)
    descent = SmoothDescent(smoother, vertices)
    first, last = STIFF[min(finer, 1)]
    history: History = []
    for step in track(range(config.steps), label):
        share = step / config.steps
        fallen = math.floor(min(1, share / FALL) * STAGES) / STAGES
        stiffness = first * (last / first) ** fallen
        rate = config.learning_rate * FINER_RATE**finer * LAST_RATE**share
        moving = vertices.requires_grad_()
        loss = loss_of.distance(moving, loss_of.draw(moving, generator)) + loss_of.roughness(moving)
        excess = outlines.excess(moving, template.faces, config.outline_views, generator)
        (gradient,) = torch.autograd.grad((loss + config.outline_weight * excess).sum(), moving)
        vertices = moving.detach() + loss_of.diagonal * descent.step(gradient, rate, stiffness)
        if step % max(1, config.steps // 40) == 0 or step == config.steps - 1:
            history.append([step, loss.mean().item()])
    return vertices, history
