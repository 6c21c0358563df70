"""Smooth motion of meshes of one topology, and a gradient descent whose every step is smooth.

Vertices that follow their own gradients fold over each other at once. Here a step is that of Adam seen
through (I + w L)^-1, L the mesh's Laplacian, before and after: a neighbourhood of about sqrt(w) edges moves
together. With w falling, large parts move first and details last (after Nicolet et al., "Large steps in
inverse rendering of geometry", 2021).
"""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from ntdm.geometry.mesh import face_neighbours

MEMORY = 0.98  # Adam's second beta: gradients at the start are far larger than later ones


class Smoother:
    """Solves with the uniform Laplacian L of a closed mesh, on the CPU wherever the fields are.

    Args:
        faces: [F, 3], on the CPU; each of the V vertices must be named.
    """

    def __init__(self, faces: Tensor) -> None:
        a, b = face_neighbours(faces)[0].numpy().T
        V = int(faces.max()) + 1
        one_way = sparse.coo_array((np.ones(len(a)), (a, b)), (V, V))
        linked = one_way + one_way.T
        self._laplacian = sparse.csc_array(sparse.diags_array(linked.sum(1)) - linked)
        self._unit = sparse.eye_array(V, format="csc")
        self._weight = -1.0
        self._factors: object = None

    def smooth(self, field: Tensor, weight: float) -> Tensor:
        """(I + weight L)^-1 field, for fields [K, V, 3]; the factors of the last weight are kept."""
        if weight != self._weight:
            self._weight, self._factors = weight, _factors(self._unit + weight * self._laplacian)
        return _solve(self._factors, field)

    def fair(self, field: Tensor, weight: float) -> Tensor:
        """(I + weight L^2)^-1 field: the nearest field to it that bends little, [K, V, 3]."""
        return _solve(_factors(self._unit + weight * self._laplacian @ self._laplacian), field)


class SmoothDescent:
    """Adam on K meshes, with one step size a mesh, seen through the smoother.

    Args:
        smoother: of the meshes' topology.
        like: [K, V, 3].
    """

    def __init__(self, smoother: Smoother, like: Tensor) -> None:
        self._smoother = smoother
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like[:, :1, :1])
        self._steps = 0

    def step(self, gradient: Tensor, rate: float, weight: float) -> Tensor:
        """The displacement [K, V, 3] for a gradient of that shape; no vertex moves by much more than rate."""
        gradient = self._smoother.smooth(gradient, weight)
        self._steps += 1
        self._mean.mul_(0.9).add_(gradient, alpha=0.1)
        # One second moment for all of a mesh: many of them would undo the smoothing.
        largest = gradient.square().amax((1, 2), keepdim=True)
        self._square.mul_(MEMORY).add_(largest, alpha=1 - MEMORY)
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - MEMORY**self._steps)
        return self._smoother.smooth(-rate * mean / (square.sqrt() + 1e-12), weight)


def _factors(matrix: sparse.csc_array) -> object:
    return splu(sparse.csc_array(matrix), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})


def _solve(factors: object, field: Tensor) -> Tensor:
    K, V, _ = field.shape
    columns = field.detach().cpu().double().permute(1, 0, 2).reshape(V, 3 * K).numpy()
    solved = torch.from_numpy(factors.solve(columns))  # type: ignore[attr-defined]
    return solved.reshape(V, K, 3).permute(1, 0, 2).to(field).contiguous()
