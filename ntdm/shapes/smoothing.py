"""Smooth fields on meshes of one topology, and a gradient descent whose every step is smooth.

A step is (I + w L)^-1 Adam((I + w L)^-1 gradient), L the mesh's uniform Laplacian: a neighbourhood of about
sqrt(w) edges moves together, where vertices that follow their gradients one by one fold over each other at
once. With w falling, large parts move first and details last (after Nicolet et al., "Large steps in inverse
rendering of geometry", 2021).
"""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from ntdm.geometry.mesh import face_neighbours

BETA1 = 0.9  # Adam's
BETA2 = 0.98  # Adam's, lower than its usual 0.999: gradients at the start are far larger than later ones


class Smoother:
    """Linear systems of the uniform Laplacian L of a closed mesh, solved on the CPU wherever the fields are.

    Args:
        faces: [F, 3], on the CPU; every one of the V vertices belongs to a face.
    """

    def __init__(self, faces: Tensor) -> None:
        a, b = face_neighbours(faces)[0].numpy().T
        V = int(faces.max()) + 1
        directed = sparse.coo_array((np.ones(len(a)), (a, b)), (V, V))
        adjacency = directed + directed.T
        self._laplacian = sparse.csc_array(sparse.diags_array(adjacency.sum(1)) - adjacency)
        self._unit = sparse.eye_array(V, format="csc")
        self._weight = -1.0
        self._factors: object = None

    def smooth(self, field: Tensor, weight: float) -> Tensor:
        """(I + weight L)^-1 field of a field [K, V, 3]; the factors of the last weight are kept."""
        if weight != self._weight:
            self._weight, self._factors = weight, _factors(self._unit + weight * self._laplacian)
        return _solve(self._factors, field)

    def fair(self, field: Tensor, weight: float) -> Tensor:
        """(I + weight L^2)^-1 field of a field [K, V, 3]: near it, and of little bending |L x|^2."""
        return _solve(_factors(self._unit + weight * self._laplacian @ self._laplacian), field)


class SmoothDescent:
    """Adam on K meshes, one step size a mesh, with gradients and steps smoothed.

    Args:
        smoother: of the meshes' topology.
        like: [K, V, 3] the meshes; their number, type and device are taken.
    """

    def __init__(self, smoother: Smoother, like: Tensor) -> None:
        self._smoother = smoother
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like[:, :1, :1])
        self._steps = 0

    def step(self, gradient: Tensor, rate: float, weight: float) -> Tensor:
        """One step of Adam.

        Args:
            gradient: [K, V, 3].
            rate: length of a step; no vertex moves by much more.
            weight: w of the smoother.

        Returns:
            displacement [K, V, 3].
        """
        gradient = self._smoother.smooth(gradient, weight)
        self._steps += 1
        self._mean.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
        # One second moment a mesh: one a coordinate would undo the smoothing.
        largest = gradient.square().amax((1, 2), keepdim=True)
        self._square.mul_(BETA2).add_(largest, alpha=1 - BETA2)
        mean, square = self._mean / (1 - BETA1**self._steps), self._square / (1 - BETA2**self._steps)
        return self._smoother.smooth(-rate * mean / (square.sqrt() + 1e-12), weight)


def _factors(matrix: sparse.csc_array) -> object:
    return splu(sparse.csc_array(matrix), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})


def _solve(factors: object, field: Tensor) -> Tensor:
    K, V, _ = field.shape
    columns = field.detach().cpu().double().permute(1, 0, 2).reshape(V, 3 * K).numpy()
    solved = torch.from_numpy(factors.solve(columns))  # type: ignore[attr-defined]
    return solved.reshape(V, K, 3).permute(1, 0, 2).to(field).contiguous()
