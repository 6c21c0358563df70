"""A world small enough to train on in a second: two categories of painted ellipsoids, caches and shapes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntdm.config.reading import keys_of
from ntdm.config.stages import InferConfig, ShapeConfig
from ntdm.geometry.camera import cam_from_obj
from ntdm.geometry.mesh import icosphere
from ntdm.io.cache import CacheWriter, Sample, write_latents
from ntdm.methods.registry import METHODS
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.ops.rasterize import interpolate, rasterize
from ntdm.shapes.files import save_shape

SIZE = (64, 64)
SCALE = 0.1  # of the crops: focal length 300
FOCAL = 3000 * SCALE
HALVES = {"car": (0.2, 0.4, 0.15), "sofa": (0.4, 0.2, 0.25)}
NUM_CADS = 2

SHAPE = ShapeConfig(subdivisions=2, width=16, layers=2, frequencies=3)
KEYS = {  # of every method
    "feature_dim": 16, "texture_size": 32, "positives": 64, "same_class_negatives": 64, "epochs": 2,
    "other_class_negatives": 32, "background_negatives": 64, "background_bank": 64, "batch_size": 4,
    "bf16": False, "learning_rate": 1e-3, "augment": 0.0, "patches": 0.0, "background_per_image": 5,
    "background_weight": 0.1, "vertices": 200,
}  # fmt: skip


def training(method: str = "ntdm", **changes: Any) -> Any:
    """The configuration of a method in this world."""
    cls = METHODS[method].config
    own = {key: value for key, value in KEYS.items() if key in keys_of(cls)}
    return cls(method=method, **own | changes)


TRAIN = training("ntdm")
CLASSIFIER = training("pose-classifier", epochs=1)
INFER = InferConfig(
    azimuths=4,
    elevations=(0.0, 30.0),
    thetas=(0.0,),
    refined_starts=2,
    screening_steps=1,
    steps=3,
    batch_size=2,
)


def shape(half: tuple[float, float, float], seed: int = 0) -> DeformableMesh:
    """A frozen Γ of two latents that is the ellipsoid of these half extents, nearly (as before its fit)."""
    torch.manual_seed(seed)
    model = DeformableMesh(SHAPE, NUM_CADS)
    with torch.no_grad():
        model.scale.copy_(torch.tensor(half))
    return model.requires_grad_(False).eval()


def write_shapes(folder: Path) -> Path:
    """What `ntdm fit-shapes` would leave for HALVES; returns folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for category, half in HALVES.items():
        save_shape(folder / f"{category}.safetensors", shape(half), {})
    return folder


def render(category: str, viewpoint: Tensor, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A photo u8 [H, W, 3] of the painted ellipsoid over noise, and its mask bool [H, W]."""
    sphere = icosphere(3)
    cam = cam_from_obj(sphere.vertices * torch.tensor(HALVES[category]), viewpoint)[None]
    centre = torch.tensor([[SIZE[1] / 2, SIZE[0] / 2]])
    fragments = rasterize(cam, sphere.faces, torch.tensor([FOCAL]), centre, SIZE)
    point = interpolate(sphere.vertices[None], sphere.faces, fragments)[0]
    mask = fragments.face_index[0] >= 0
    noise = torch.rand(1, 3, 8, 8, generator=generator)
    photo = torch.nn.functional.interpolate(noise, SIZE, mode="bilinear")[0].permute(1, 2, 0)
    photo[mask] = 0.5 + 0.5 * (3 * point[mask]).sin()
    return (255 * photo).byte().numpy(), mask.numpy()


def write_cache(
    root: Path, key: str, categories: tuple[str, ...] = tuple(HALVES), count: int = 4, seed: int = 0,
    prefix: str = "photo", latents: bool = True,
) -> Path:  # fmt: skip
    """`count` samples a category under root/key, e.g. "pascal3d/val"; with occluders if the key says so."""
    dataset, split = key.split("/")
    occluded = dataset.startswith("occluded")
    generator = torch.Generator().manual_seed(seed)
    template = icosphere(1)
    for category in categories:
        cads = {
            k: ((template.vertices * torch.tensor(HALVES[category])).numpy(), template.faces.numpy())
            for k in range(NUM_CADS)
        }
        path = root / key / f"{category}.h5"
        with CacheWriter(
            path, dataset=dataset, split=split, category=category, image_size=SIZE, config={"scale": SCALE},
            cads=cads, optional=("occluder_mask",) if occluded else (),
        ) as writer:  # fmt: skip
            for i in range(count):
                drawn = torch.rand(3, generator=generator, dtype=torch.float64)
                angles = drawn * torch.tensor([2 * math.pi, 0.6, 0.2]) - torch.tensor([0, 0.1, 0.1])
                viewpoint = torch.cat([angles, torch.tensor([5.0], dtype=torch.float64)])
                photo, mask = render(category, viewpoint.float(), generator)
                occluder = np.zeros(SIZE, bool)
                if occluded:
                    occluder[:, : SIZE[1] // 2] = True
                    photo[occluder] = 40
                rows, columns = mask.nonzero()
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                writer.add(
                    Sample(
                        name=f"{prefix}_{i}", source=f"{prefix}_{i}.png", image=photo, amodal_mask=mask,
                        visible_mask=mask & ~occluder, viewpoint=viewpoint.numpy(), focal=FOCAL,
                        principal_point=np.array([SIZE[1] / 2, SIZE[0] / 2]), bbox=np.array(box, np.float64),
                        cad_index=i % NUM_CADS, occluder_mask=occluder if occluded else None,
                    )
                )  # fmt: skip
        if latents:
            write_latents(path, np.eye(NUM_CADS, dtype=np.float32)[np.arange(count) % NUM_CADS])
    return root
