"""Lift a photo onto the mesh that it shows: a textured OBJ of what one picture tells about an object.

    python examples/lift_photo.py CACHE.h5 INDEX SHAPE.safetensors OUT.obj

Sample INDEX of a cache file (`ntdm prep-data`) gives the photo, its camera and the latent of the annotated
CAD; the shape file (`ntdm fit-shapes`, which wrote the latent) the deformable mesh. Texels that the photo
does not show are grey.
"""

import sys
from pathlib import Path

import torch

from ntdm.geometry.camera import cam_from_obj
from ntdm.geometry.mesh import sphere_uv
from ntdm.geometry.obj import write_obj
from ntdm.io.cache import CacheFile
from ntdm.ops.rasterize import interpolate, rasterize
from ntdm.ops.uv_scatter import uv_scatter
from ntdm.shapes.files import load_shape

TEXELS = 256


def lift(cache: Path, index: int, shape: Path, out: Path) -> Path:
    """Write OUT.obj, .mtl and .png; returns out."""
    with CacheFile(cache) as file:
        if "latent" not in file:
            raise ValueError(f"{cache} has no latents: run `ntdm fit-shapes` on it")
        names = "images", "visible_mask", "viewpoint", "focal", "principal_point", "latent"
        sample = {name: torch.as_tensor(file.read(name, index)) for name in names}
    model = load_shape(shape)
    vertices, faces = model(sample["latent"][None]), model.template_faces
    sphere = model.template_vertices

    photo = sample["images"].float() / 255  # [H, W, 3]
    camera = sample["focal"].float()[None], sample["principal_point"].float()[None]
    seen = cam_from_obj(vertices, sample["viewpoint"].float()[None])
    fragments = rasterize(seen, faces, *camera, tuple(photo.shape[:2]))
    # Where the mesh reaches over the object's mask, the photo shows something else.
    covered = (fragments.face_index >= 0) & (sample["visible_mask"] > 0)
    uv = sphere_uv(interpolate(sphere[None], faces, fragments))
    texture, weight = uv_scatter(photo[None], uv, covered, TEXELS)

    texture = torch.where(weight[..., None] > 0, texture, 0.5)[0]
    picture = (texture * 255).round().to(torch.uint8).numpy()
    return write_obj(out, vertices[0], faces, sphere, picture)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    print(lift(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
