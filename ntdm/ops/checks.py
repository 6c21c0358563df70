"""Checks of the operators' arguments: ValueErrors name the operator, the argument, what came and what is due.

What needs only shapes, types and devices is checked before an operator is called; what needs the values
(indices) in its implementation, where tracing does not come.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_ELEMENTS = 2**31
FLOATS = (torch.float32, torch.float64)  # what the kernels compute in


def check_device(op: str, argument: str, tensor: Tensor) -> None:
    """ValueError when a tensor lies where no kernels are."""
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{op}: {argument} is on {tensor.device}: want the CPU or CUDA")


def check_shape(op: str, argument: str, tensor: Tensor, shape: Sequence[int], of: str) -> None:
    """ValueError when a tensor has another shape than the argument `of` asks for."""
    if tensor.shape != torch.Size(shape):
        raise ValueError(f"{op}: {argument} has shape {tuple(tensor.shape)}: want {tuple(shape)} as {of}")


def check_type(
    op: str, argument: str, tensor: Tensor, dtype: torch.dtype, device: torch.device, of: str
) -> None:
    """ValueError when a tensor is of another type, or on another device, than the argument `of` asks for."""
    if tensor.dtype != dtype or tensor.device != device:
        raise ValueError(
            f"{op}: {argument} is {tensor.dtype} on {tensor.device}: "
            f"convert it to {dtype} on {device} as {of}"
        )


def check_same_device(op: str, argument: str, tensor: Tensor, of: str, device: torch.device) -> None:
    """ValueError when a tensor is not on the device of the argument `of`."""
    if tensor.device != device:
        raise ValueError(f"{op}: {argument} is on {tensor.device}, {of} on {device}")


def check_elements(op: str, argument: str, shape: Sequence[int]) -> None:
    """ValueError when a tensor has more elements than the kernels count."""
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(
            f"{op}: {argument}, {list(shape)}, has {math.prod(shape)} elements: "
            f"want {MOST_ELEMENTS} at most, in parts of the batch"
        )


def check_faces(op: str, faces: Tensor) -> None:
    """ValueError when faces are not [F, 3] int64."""
    if faces.dim() != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"{op}: faces must be [F, 3] int64, got {list(faces.shape)} {faces.dtype}")


def check_face_index(op: str, face_index: Tensor) -> None:
    """ValueError when fragments' face_index is not [B, H, W] int64."""
    if face_index.dim() != 3 or face_index.dtype != torch.int64:
        raise ValueError(
            f"{op}: face_index must be [B, H, W] int64, got {list(face_index.shape)} {face_index.dtype}"
        )


def check_mesh(op: str, vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor) -> None:
    """ValueError when a mesh in B poses and its cameras do not fit together."""
    if vertices_cam.dim() != 3 or vertices_cam.shape[2] != 3:
        raise ValueError(f"{op}: vertices_cam must be [B, V, 3], got {list(vertices_cam.shape)}")
    batch, dtype = vertices_cam.shape[0], vertices_cam.dtype
    if dtype not in FLOATS:
        raise ValueError(f"{op}: vertices_cam must be float32 or float64, got {dtype}")
    check_faces(op, faces)
    for name, tensor, shape in (("focal", focal, [batch]), ("principal_point", principal_point, [batch, 2])):
        if list(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(f"{op}: {name} must be {shape} {dtype}, got {list(tensor.shape)} {tensor.dtype}")
    check_device(op, "vertices_cam", vertices_cam)
    for name, tensor in (("faces", faces), ("focal", focal), ("principal_point", principal_point)):
        check_same_device(op, name, tensor, "vertices_cam", vertices_cam.device)
    if len(faces) > 2**31 - 1:
        raise ValueError(f"{op}: faces has {len(faces)} rows: want {2**31 - 1} at most")
    check_elements(op, "vertices_cam", vertices_cam.shape)


def check_vertex_range(op: str, faces: Tensor, vertices: int) -> None:
    """ValueError when faces name a vertex that is not there."""
    if faces.numel():
        low, high = (int(value) for value in faces.aminmax())
        if low < 0 or high >= vertices:
            raise ValueError(
                f"{op}: faces name vertex {low if low < 0 else high}, but there are {vertices} vertices"
            )


def check_face_range(op: str, face_index: Tensor, faces: Tensor) -> None:
    """ValueError when fragments name a face that is not there: they are of another mesh."""
    if face_index.numel():
        high = int(face_index.amax())
        if high >= len(faces):
            raise ValueError(f"{op}: fragments name face {high}, but there are {len(faces)} faces")
