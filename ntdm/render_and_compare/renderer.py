"""What the solver asks of a method: one category's mesh, rendered and compared with features."""

from typing import NamedTuple, Protocol

from torch import Tensor

from ntdm.geometry.camera import Pinhole
from ntdm.ops.rasterize import Fragments


class Shape(NamedTuple):
    """Γ(z) of B latents, and the frames of its surface."""

    vertices: Tensor  # [B, V, 3] object frame, before s'
    frames: Tensor  # [V, 3, 3, B], see ntdm.nn.neural_texture.LocalView; [0, 3, 3, B] where none are needed


class SurfaceMap(NamedTuple):
    """What a mesh shows on a feature grid."""

    fragments: Fragments
    attributes: Tensor  # [B or 1, V, A + C] of every vertex: the two fields below, before interpolation
    sphere: Tensor  # what names the surface under each cell [B, h, w, A]: a template point; zero outside
    local_view: Tensor  # direction to the camera in (du, dv, n) [B, h, w, C], near unit length; C may be 0


class Renderer(Protocol):
    """One category of a trained method.

    Attributes:
        category: its number among the method's.
        stride: pixels a cell of the feature map.
        faces: [F, 3] of the mesh.
        num_latents: K.
    """

    category: int
    stride: int
    faces: Tensor
    num_latents: int

    def one_hot(self) -> Tensor:
        """[K, K]: the latent of every CAD."""

    def shape(self, latent: Tensor) -> Shape:
        """Γ of latents [B, K]."""

    def seen_from(self, shape: Shape, vertices: Tensor, centre: Tensor) -> Tensor:
        """Directions [B, V, C] from vertices [B, V, 3] to camera centres [B, 3], in the surface's frames."""

    def render(self, vertices_cam: Tensor, view: Tensor | None, camera: Pinhole) -> SurfaceMap:
        """The mesh [B, V, 3] on the camera's grid; `view` is what seen_from gave, None where unknown."""

    def features(self, sphere: Tensor, local_view: Tensor) -> tuple[Tensor, Tensor]:
        """f' [P, d] of surface points [P, A] seen from [P, C], and the evidence [P] for it."""

    def similarity(
        self, sphere: Tensor, local_view: Tensor, target: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f . f' [P] of surface points with target[index], and the evidence [P] for f'."""
