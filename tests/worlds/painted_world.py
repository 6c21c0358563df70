"""Feature maps of which the truth is known, for the solver's tests.

The model's texture is a smooth function of the sphere point, the "photo" that texture at a known viewpoint
over random unit features: no backbone and no training stand between the solver and the truth.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.config.stages import InferConfig
from ntdm.geometry import metrics
from ntdm.geometry.camera import Pinhole, cam_from_obj, rotation
from ntdm.methods.ntdm import NTDM, NTDMConfig, TextureRenderer
from ntdm.ops.rasterize import rasterize
from ntdm.render_and_compare.encode import EncodedPhotos
from ntdm.render_and_compare.solver import Solver

SIZE, FOCAL, DIM = (96, 128), 600.0, 32
HALF = (0.2, 0.42, 0.15)
DEFAULT = InferConfig()
VIEWPOINTS = torch.tensor(
    [[0.35, 0.2, 0.1, 5.0], [2.0, 0.7, -0.3, 5.2], [3.6, -0.2, 0.25, 4.8], [5.5, 0.4, 0.0, 5.0]]
)


def painting(points: Tensor) -> Tensor:
    """Unit features [..., DIM] of sphere points [..., 3]: about one and a half waves around the sphere."""
    generator = torch.Generator().manual_seed(0)
    waves = 1.5 * torch.randn(3, DIM, generator=generator)
    phases = 2 * math.pi * torch.rand(DIM, generator=generator)
    return normalize((points @ waves.to(points.dtype) + phases.to(points.dtype)).cos(), dim=-1)


def painted_model(tiny, categories=("car",), **config) -> NTDM:
    settings = {"feature_dim": DIM, "texture_size": 64, "view_bins": 3, "bf16": False} | config
    model = (
        NTDM(NTDMConfig(**settings), {name: tiny.shape(HALF) for name in categories})
        .requires_grad_(False)
        .eval()
    )
    size, bins = model.config.texture_size, model.config.view_bins
    features = painting(model.texels).reshape(1, size, size, 1, DIM)
    model.texture.theta.copy_(features.expand(len(categories), -1, -1, bins, -1))
    model.texture.seen.fill_(1)
    return model


def noise(*shape: int, seed: int = 1) -> Tensor:
    return normalize(torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def photographs(model: NTDM, viewpoints: Tensor) -> tuple[EncodedPhotos, Tensor]:
    """The painting at each viewpoint over noise, and its true amodal masks bool [N, H, W]."""
    count, (height, width) = len(viewpoints), SIZE
    z = torch.eye(2)[torch.arange(count) % 2]
    cam = cam_from_obj(model.shape(0)(z), viewpoints)
    middle = torch.tensor([width / 2, height / 2]).expand(count, 2)
    camera = Pinhole(torch.full((count,), FOCAL), middle, SIZE)
    cells = camera.scaled(1 / model.stride)
    surface = model.surface_map(cam, cells)
    covered = surface.fragments.face_index >= 0
    features = noise(count, *cells.size)
    features[covered] = painting(normalize(surface.sphere[covered], dim=-1))
    masks = rasterize(cam, model.faces, *camera).face_index >= 0
    return with_clutter(features), masks


def with_clutter(features: Tensor) -> EncodedPhotos:
    """Photos whose background bank holds 200 random features."""
    return EncodedPhotos(features, (features @ noise(200, seed=2).T).amax(-1))


def degrees(solution, viewpoints: Tensor) -> Tensor:
    """Rotation error of every photo."""
    errors = metrics.rotation_error(
        rotation(solution.viewpoint).double().numpy(), rotation(viewpoints).double().numpy()
    )
    return torch.from_numpy(errors).rad2deg()


def overlap(masks: Tensor, truth: Tensor) -> Tensor:
    return (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))


def one_colour(model: NTDM) -> Tensor:
    """Make the texture say nothing but "object": the same feature everywhere; returns it [DIM]."""
    colour = painting(torch.tensor([0.0, 0.0, 1.0]))
    model.texture.theta.copy_(colour)
    return colour


def solver_of(model: NTDM, category: int, config: InferConfig) -> Solver:
    """The solver of one category of a painted model, for photos of SIZE."""
    return Solver(TextureRenderer(model, category), config, SIZE, FOCAL)
