"""Checks of the operators' arguments; ValueErrors name the operator, the argument and what was expected."""

import math

import torch
from torch import Tensor

MOST_ELEMENTS = 2**31
FLOATS = (torch.float32, torch.float64)  # that the kernels compute in
# How far the soft silhouette reaches, in sigmas.
REACH = 3.0


def require(condition: bool, message: str) -> None:
    """ValueError(message) where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def check_range(name: str, faces: Tensor, vertices: int) -> None:
    """ValueError when faces name a vertex that is not there."""
    if faces.numel():
        low, high = (int(value) for value in faces.aminmax())
        if low < 0 or high >= vertices:
            raise ValueError(
                f"{name}: faces name vertex {low if low < 0 else high}, but there are {vertices} vertices"
            )


def check_fragments(face_index: Tensor, faces: Tensor) -> None:
    """ValueError when the fragments name a face that is not there: they are of another mesh."""
    if face_index.numel():
        high = int(face_index.amax())
        if high >= len(faces):
            raise ValueError(f"interpolate: fragments name face {high}, but there are {len(faces)} faces")


def check_faces(name: str, faces: Tensor) -> None:
    """ValueError unless faces are [F, 3] int64."""
    if faces.dim() != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"{name}: faces must be [F, 3] int64, got {list(faces.shape)} {faces.dtype}")


def check_face_index(name: str, face_index: Tensor) -> None:
    """ValueError unless face_index is [B, H, W] int64."""
    if face_index.dim() != 3 or face_index.dtype != torch.int64:
        raise ValueError(
            f"{name}: face_index must be [B, H, W] int64, got {list(face_index.shape)} {face_index.dtype}"
        )


def check_elements(name: str, argument: str, shape: tuple[int, ...]) -> None:
    """ValueError where a tensor of this shape has more elements than 32-bit indices reach."""
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(
            f"{name}: {argument}, {list(shape)}, has {math.prod(shape)} elements: "
            f"want {MOST_ELEMENTS} at most, in parts of the batch"
        )


def check_mesh(vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor) -> None:
    """ValueError where the arguments of `rasterize` do not fit each other."""
    if vertices_cam.dim() != 3 or vertices_cam.shape[2] != 3:
        raise ValueError(f"rasterize: vertices_cam must be [B, V, 3], got {list(vertices_cam.shape)}")
    batch, dtype = vertices_cam.shape[0], vertices_cam.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"rasterize: vertices_cam must be float32 or float64, got {dtype}")
    check_faces("rasterize", faces)
    for name, tensor, shape in (("focal", focal, [batch]), ("principal_point", principal_point, [batch, 2])):
        if list(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(
                f"rasterize: {name} must be {shape} {dtype}, got {list(tensor.shape)} {tensor.dtype}"
            )
    device = vertices_cam.device
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"rasterize: vertices_cam is on {device}: want the CPU or CUDA")
    for name, tensor in (("faces", faces), ("focal", focal), ("principal_point", principal_point)):
        if tensor.device != device:
            raise ValueError(f"rasterize: {name} is on {tensor.device}, vertices_cam on {device}")
    if len(faces) > 2**31 - 1:
        raise ValueError(f"rasterize: faces has {len(faces)} rows: want {2**31 - 1} at most")
    check_elements("rasterize", "vertices_cam", tuple(vertices_cam.shape))
