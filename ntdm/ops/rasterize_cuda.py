"""The CUDA implementations of the operators of rasterize_ops.py: memory, sorted lists, the order of launches.

The kernels are cuda/rasterize_cuda.cu and cuda/soft_silhouette_cuda.cu. Sums over the pixels of a face and
the faces of a vertex run through lists that stable sorts make here, so the same input gives the same bits.
"""

import torch
from torch import Tensor

from ntdm.geometry.camera_np import NEAR
from ntdm.ops import kernels
from ntdm.ops.checks import REACH, check_fragments, check_range

_NOTHING = torch.iinfo(torch.int64).max  # the z-buffer's background


def rasterize(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ntdm::rasterize."""
    check_range("rasterize", faces, vertices_cam.shape[1])
    faces = faces.contiguous()
    shape = (vertices_cam.shape[0], height, width)
    barycentric, depth = vertices_cam.new_empty((*shape, 3)), vertices_cam.new_empty(shape)
    face_index, dropped = faces.new_empty(shape), faces.new_zeros(shape[:1])
    projected = _project(vertices_cam, focal, principal_point)
    kernels.call("rasterize", projected, faces, *projected.shape[:2], len(faces), height,
        width, faces.new_full(shape, _NOTHING), barycentric, depth, face_index, dropped,
        dtype=depth.dtype,
    )  # fmt: skip
    return barycentric, depth, face_index, dropped


def rasterize_backward(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    barycentric: Tensor, depth: Tensor, grad_barycentric: Tensor, grad_depth: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """ntdm::rasterize_backward."""
    vertices_cam, faces = vertices_cam.contiguous(), faces.contiguous()
    batch, vertices, _ = vertices_cam.shape
    grad_vertices = torch.empty_like(vertices_cam)
    # To a face's corners, to the focal length, to the principal point.
    face_sums = vertices_cam.new_empty((batch, len(faces), 12), dtype=torch.float64)
    maps = [t.contiguous() for t in (barycentric, depth, grad_barycentric, grad_depth)]
    kernels.call("rasterize_backward", vertices_cam, faces, focal.contiguous(),
        principal_point.contiguous(), *maps, batch, vertices, len(faces), *depth.shape[1:],
        *_pixels_by_face(face_index, len(faces)), *_corners_by_vertex(faces, vertices), face_sums,
        grad_vertices,
    )  # fmt: skip
    camera = face_sums[..., 9:].sum(1).to(depth.dtype)
    return grad_vertices, camera[:, 0].contiguous(), camera[:, 1:].contiguous()


def interpolate(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor) -> Tensor:
    """ntdm::interpolate."""
    check_range("interpolate", faces, attributes.shape[1])
    check_fragments(face_index, faces)
    inputs = [t.contiguous() for t in (attributes, faces, face_index, barycentric)]
    output = attributes.new_empty((*face_index.shape, attributes.shape[2]))
    kernels.call("interpolate", *inputs, *_sizes(attributes, face_index), output)
    return output


def interpolate_backward(
    grad: Tensor, attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor,
    need_attributes: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """ntdm::interpolate_backward."""
    inputs = [t.contiguous() for t in (grad, attributes, faces, face_index)]
    grad, faces = inputs[0], inputs[2]
    barycentric = barycentric.contiguous()
    grad_barycentric = torch.empty_like(barycentric)
    sizes = _sizes(attributes, face_index)
    kernels.call("barycentric_gradient", *inputs, *sizes, grad_barycentric)
    shared, vertices, channels = attributes.shape
    per_item = attributes.new_empty((sizes[0] if need_attributes else 0, vertices, channels))
    if need_attributes:
        kernels.call("attribute_gradient", grad, barycentric, sizes[0], vertices, len(faces), channels,
            *_pixels_by_face(face_index, len(faces)), *_corners_by_vertex(faces, vertices), per_item,
        )  # fmt: skip
        if shared != sizes[0]:
            per_item = per_item.sum(0, keepdim=True)
    return per_item, grad_barycentric


def soft_silhouette(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    sigma: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """ntdm::soft_silhouette."""
    check_range("soft_silhouette", faces, vertices_cam.shape[1])
    faces, shape = faces.contiguous(), face_index.shape
    soft, nearest_face = vertices_cam.new_empty(shape), faces.new_empty(shape)
    nearest_barycentric = vertices_cam.new_empty((*shape, 3))
    projected = _project(vertices_cam, focal, principal_point)
    batch, vertices, _ = projected.shape
    kernels.call("soft_silhouette", projected, faces, face_index.contiguous(), batch,
        vertices, len(faces), *shape[1:], float(sigma), REACH * sigma,
        vertices_cam.new_empty((batch, len(faces), 4)),
        soft, nearest_face, nearest_barycentric, dtype=soft.dtype,
    )  # fmt: skip
    return soft, nearest_face, nearest_barycentric


def soft_silhouette_backward(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    soft: Tensor, grad: Tensor, sigma: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """ntdm::soft_silhouette_backward."""
    vertices_cam, faces = vertices_cam.contiguous(), faces.contiguous()
    projected = _project(vertices_cam, focal, principal_point)
    batch, vertices, _ = projected.shape
    grad_vertices = torch.empty_like(vertices_cam)
    camera_sums = torch.empty_like(projected)  # to the focal length and the principal point
    kernels.call("soft_silhouette_backward", projected, faces, face_index.contiguous(),
        vertices_cam, focal.contiguous(), soft.contiguous(), grad.contiguous(), batch, vertices, len(faces),
        *face_index.shape[1:], float(sigma), REACH * sigma, *_corners_by_vertex(faces, vertices),
        projected.new_empty((batch, len(faces), 6)), grad_vertices, camera_sums, dtype=soft.dtype,
    )  # fmt: skip
    camera = camera_sums.sum(1).to(soft.dtype)
    return grad_vertices, camera[:, 0].contiguous(), camera[:, 1:].contiguous()


def _project(vertices_cam: Tensor, focal: Tensor, principal_point: Tensor) -> Tensor:
    """x, y in pixels and 1 / depth, 0 where not usable [B, V, 3], double."""
    batch, vertices, _ = vertices_cam.shape
    projected = vertices_cam.new_empty(vertices_cam.shape, dtype=torch.float64)
    inputs = [t.contiguous() for t in (vertices_cam, focal, principal_point)]
    kernels.call("project", *inputs, batch, vertices, NEAR, projected)
    return projected


def _sizes(attributes: Tensor, face_index: Tensor) -> tuple[int, int, int, int]:
    shared, vertices, channels = attributes.shape
    batch, height, width = face_index.shape
    return batch, 0 if shared == 1 else vertices * channels, channels, height * width


def _pixels_by_face(face_index: Tensor, faces: int) -> tuple[Tensor, Tensor]:
    """Pixels of every item's every face: where each list starts [B F + 1], the pixels list after list."""
    batch = face_index.shape[0]
    first = faces * torch.arange(batch, device=face_index.device)[:, None, None]
    key = torch.where(face_index < 0, batch * faces, face_index + first).flatten()
    return _grouped(key, batch * faces)


def _corners_by_vertex(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """Places in faces.flatten() of every vertex: where each list starts [V + 1], the places."""
    return _grouped(faces.flatten(), vertices)


def _grouped(key: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    sorted_key, member = key.sort(stable=True)
    return torch.searchsorted(sorted_key, torch.arange(groups + 1, device=key.device)), member
