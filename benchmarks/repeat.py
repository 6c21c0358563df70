"""Every operator, forward and backward, again and again on one input: are the results the same bits?

    python benchmarks/repeat.py --device cuda --repeats 100

Also what compute-sanitizer watches (few repeats). Exits with 1 and names the first tensor that differs.
"""

import argparse

import torch
from measure import machine
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.geometry import camera, mesh
from ntdm.ops.rasterize import interpolate, rasterize
from ntdm.ops.soft_silhouette import soft_silhouette
from ntdm.ops.texture_lookup import texture_lookup, texture_similarity
from ntdm.ops.texture_update import texture_update
from ntdm.ops.uv_scatter import uv_scatter


def drawn(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


def once(device: str) -> dict[str, Tensor]:
    """Results and gradients of all operators on one scene: overlapping ellipsoids, seam and poles in view."""
    sphere, found = mesh.icosphere(3), {}
    faces = sphere.faces.to(device)
    viewpoint = torch.tensor([[0.3 * n, 0.2 * n - 0.5, 0.1 * n, 5.0] for n in range(8)])
    scaled = sphere.vertices * torch.tensor([0.6, 0.35, 0.5])
    vertices = camera.cam_from_obj(scaled.expand(8, -1, -1), viewpoint).to(device).requires_grad_()
    focal = torch.full((8,), 170.0, device=device, requires_grad=True)
    centre = torch.full((8, 2), 27.3, device=device, requires_grad=True)

    fragments = rasterize(vertices, faces, focal, centre, (50, 61), "native")
    silhouette = soft_silhouette(vertices, faces, focal, centre, fragments)
    attributes = sphere.vertices.to(device)[None].requires_grad_()
    points = interpolate(attributes, faces, fragments)
    found |= {"face_index": fragments.face_index, "depth": fragments.depth, "soft": silhouette.soft}
    covered = fragments.face_index >= 0
    loss = (points * drawn(device, *points.shape)).sum() + silhouette.soft.square().sum()
    loss = loss + fragments.depth[covered].sum()
    names, leaves = ("vertices", "focal", "centre", "attributes"), (vertices, focal, centre, attributes)
    found |= dict(zip(names, torch.autograd.grad(loss, leaves), strict=True))

    for dtype in (torch.float32, torch.bfloat16):
        points = torch.where(covered[..., None], points.detach(), points.new_tensor([1.0, 0.0, 0.0]))
        uv = mesh.sphere_uv(points).requires_grad_()
        features = drawn(device, 8, 50, 61, 70).to(dtype).requires_grad_()
        mean, weight = uv_scatter(features, uv, covered, 64)
        gradients = torch.autograd.grad(mean, (features, uv), drawn(device, *mean.shape).to(dtype))
        found |= {f"{dtype} mean": mean, f"{dtype} weight": weight}
        found |= {f"{dtype} to features": gradients[0], f"{dtype} to uv": gradients[1]}

    texture, seen = (
        normalize(drawn(device, 2, 32, 32, 7, 70), dim=-1),
        (drawn(device, 2, 32, 32, 7) > 0).float(),
    )
    place = drawn(device, 5000, 2).requires_grad_()
    alpha = drawn(device, 5000, 7).softmax(-1).requires_grad_()
    which = torch.arange(5000, device=device) % 2
    feature, evidence = texture_lookup(texture, seen, which, place, alpha)
    cosine, _ = texture_similarity(texture, seen, which, place, alpha, drawn(device, 5000, 70))
    found |= {"feature": feature, "evidence": evidence, "cosine": cosine}
    gradients = torch.autograd.grad(cosine.sum() + feature.square().sum(), (place, alpha))
    found |= {"to place": gradients[0], "to alpha": gradients[1]}
    theta, marks = texture[0].flatten(0, 1).clone(), seen[0].flatten(0, 1).clone()
    texels = torch.arange(0, 1024, 3, device=device)
    with torch.no_grad():
        texture_update(theta, marks, texels, feature[: len(texels)], alpha[: len(texels)], 0.9, 0.05)
    return {name: tensor.detach() for name, tensor in (found | {"theta": theta, "marks": marks}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    print(machine(args.device))
    first = once(args.device)
    for repeat in range(1, args.repeats):
        for name, tensor in once(args.device).items():
            if not torch.equal(tensor.nan_to_num(), first[name].nan_to_num()):
                raise SystemExit(f"{name} differs at repeat {repeat + 1}")
    print(f"{len(first)} tensors, {args.repeats} times the same bits")


if __name__ == "__main__":
    main()
