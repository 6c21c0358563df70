"""Analysis by synthesis: find the pose, shape and masks under which the rendered texture explains a photo.

For one category and a batch of photos: every start (azimuth x elevation x in-plane x latent) is rendered once
and compared with every photo in one product; the best starts are refined by Adam through the rasterizer. The
loss (Eq. 3 and 10 of arXiv 2306.00118) is the clutter-relative mean over all cells i of the feature map,

    L = 1 - mean_i [ m_i max(f_i . f'_i - f_i . beta_i, -kappa) ]

with m the soft silhouette, f' the rendered feature, f . beta how much f looks like background. Inside the
outline m is 1 and the gradient flows through f'; outside, f' is the texture at the nearest outline point,
held fixed, and the gradient flows through m: it grows the silhouette over cells that look like the object
and, as a cell that looks like background costs kappa, shrinks it from cells that do not. A weak prior keeps
distance and s' near what the crop's normalisation says; it is part of the loss that ranks the classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import InferConfig
from ntdm.geometry.camera import Pinhole, cam_from_obj
from ntdm.nn.background import foreground_logit
from ntdm.ops.rasterize import rasterize
from ntdm.ops.soft_silhouette import soft_silhouette
from ntdm.render_and_compare.encode import LEAST_EVIDENCE, EncodedPhotos, foreground_gain
from ntdm.render_and_compare.parameters import POSE_COLUMNS, Parameters, free_columns
from ntdm.render_and_compare.renderer import Renderer, Shape, SurfaceMap
from ntdm.render_and_compare.row_adam import RowAdam
from ntdm.render_and_compare.starts import Starts, posed


class Solution(NamedTuple):
    """The refined parameters of one category, one row a photo."""

    viewpoint: Tensor  # [N, 4] azimuth in [0, 2 pi), elevation, theta, distance
    principal_point: Tensor  # [N, 2] crop pixels
    latent: Tensor  # [N, K]
    scale: Tensor  # [N] s'
    loss: Tensor  # [N]
    vertices: Tensor  # [N, V, 3] object frame


class Solver:
    """Inference for one category of a method at one image size.

    Args:
        renderer: of the category.
        config: of the inference.
        image_size: (H, W) of the crops, multiples of the stride.
        focal: nominal focal length in crop pixels (3000 s), as the annotated distance is not known.
    """

    def __init__(
        self, renderer: Renderer, config: InferConfig, image_size: tuple[int, int], focal: float
    ) -> None:
        self.renderer, self.config, self.image_size, self.focal = renderer, config, image_size, focal
        self.starts = Starts(renderer, config, image_size, focal)
        self.size = (image_size[0] // renderer.stride, image_size[1] // renderer.stride)

    @torch.no_grad()
    def least_loss(self, chosen: Tensor, photos: EncodedPhotos) -> Tensor:
        """The loss [N] of the best of every photo's starts `chosen` [N, kept, 7 + K], before any step."""
        owner = torch.arange(len(chosen), device=chosen.device).repeat_interleave(chosen.shape[1])
        return self.loss(chosen.flatten(0, 1), owner, photos).unflatten(0, chosen.shape[:2]).amin(1)

    def solve(self, photos: EncodedPhotos, chosen: Tensor | None = None) -> Solution:
        """Refine every photo's chosen starts, by default those of the search; keep the best result."""
        chosen = self.starts.choose(photos) if chosen is None else chosen
        count, kept = chosen.shape[:2]
        photo = torch.arange(count, device=chosen.device)
        owner = photo.repeat_interleave(kept)
        rows, loss = self._refine(
            chosen.flatten(0, 1), owner, photos, self.config.screening_steps if kept > 1 else 0
        )
        winner = loss.unflatten(0, (count, kept)).argmin(1) + photo * kept
        rows, loss = self._refine(rows[winner], photo, photos, self.config.steps, self.config.patience)
        return self._solution(rows, loss)

    def loss(self, rows: Tensor, owner: Tensor, photos: EncodedPhotos, shape: Shape | None = None) -> Tensor:
        """L [B] of parameter rows [B, 7 + K], row i against photo owner[i]; differentiable.

        Args:
            rows: see parameters.py.
            owner: [B] numbers of photos.
            photos: the batch.
            shape: the rows' where it is known and z is not being optimised.
        """
        parameters = Parameters.of(rows)
        vertices_cam, view = posed(self.renderer, parameters, shape or self.renderer.shape(parameters.latent))
        camera = parameters.camera(self.focal, self.image_size).scaled(1 / self.renderer.stride)
        surface = self.renderer.render(vertices_cam, view, camera)
        inside = surface.fragments.face_index >= 0
        cells = self.size[0] * self.size[1]
        flat = (owner * cells)[:, None, None] + torch.arange(cells, device=rows.device).reshape(self.size)
        gain = self._gain(surface.sphere[inside], surface.local_view[inside], flat[inside], photos)
        total = self._per_row(gain, inside)
        if self.config.silhouette == "soft":
            total = total + self._outside_gain(vertices_cam, camera, surface, flat, photos)
        # Without it a texture that explains little would make the object vanish: an empty picture costs 1.
        nominal = math.log(self.config.distance)
        size = (parameters.log_distance - nominal).square() + parameters.log_scale.square()
        return 1 - total / cells + self.config.size_prior * size

    def _gain(self, sphere: Tensor, local_view: Tensor, index: Tensor, photos: EncodedPhotos) -> Tensor:
        """Foreground-over-clutter gain [P] of surface points (summand of Eq. 10) at cells `index` [P].

        0 for texels that training never saw.
        """
        target, clutter = photos.features.flatten(0, 2), photos.clutter.flatten()
        cosine, evidence = self.renderer.similarity(sphere, local_view, target, index)
        gain = foreground_gain(cosine, clutter[index], self.config)
        return torch.where(evidence > LEAST_EVIDENCE, gain, 0.0)

    def _outside_gain(
        self, vertices_cam: Tensor, camera: Pinhole, surface: SurfaceMap, flat: Tensor, photos: EncodedPhotos
    ) -> Tensor:
        """Sum [B] over cells just outside the outline of soft mask times the gain of its nearest texture."""
        faces = self.renderer.faces
        edge = soft_silhouette(
            vertices_cam, faces, camera.focal, camera.principal_point, surface.fragments, self.config.sigma
        )
        band = edge.nearest_face >= 0
        with torch.no_grad():
            corners = faces[edge.nearest_face[band]]
            row = band.nonzero()[:, 0]
            weights = edge.nearest_barycentric[band][..., None]
            widths = (surface.sphere.shape[-1], surface.local_view.shape[-1])
            nearest = (surface.attributes[row[:, None], corners] * weights).sum(1)
            sphere, local_view = nearest.split(widths, -1)
            gain = self._gain(sphere, local_view, flat[band], photos)
        return self._per_row(edge.soft[band] * gain, band)

    @staticmethod
    def _per_row(values: Tensor, mask: Tensor) -> Tensor:
        """Sums [B] of the values that stand at the true cells of mask [B, h, w]."""
        return values.new_zeros(len(mask)).index_add(0, mask.nonzero()[:, 0], values)

    def _refine(
        self, rows: Tensor, owner: Tensor, photos: EncodedPhotos, steps: int, patience: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Adam on every row alone (row_adam.py); returns the best rows seen and their losses.

        The latent moves on every `shape_every`-th step only: Psi costs as much as all the rest of a step. It
        waits for `shape_after` steps or the second rate, lest it explain a pose that is still wrong.
        """
        config = self.config
        pose = free_columns(
            rows.shape[1], distance=config.refine_distance, offset=config.refine_principal_point,
            scale=config.refine_scale, device=rows.device,
        )  # fmt: skip
        latent = torch.arange(rows.shape[1], device=rows.device) >= POSE_COLUMNS
        adam = RowAdam(rows, config, steps, patience)
        shape: Shape | None = None
        for step in range(steps + 1):
            if len(adam.live) == 0:
                break
            free = (adam.rate > 0) | (step >= config.shape_after)
            with_shape = (
                config.refine_shape
                and step % config.shape_every == config.shape_every - 1
                and bool(free.any())
            )
            if with_shape:
                shape = None
            elif shape is None:
                with torch.no_grad():
                    shape = self.renderer.shape(Parameters.of(adam.rows).latent)
            rows = adam.rows.detach().requires_grad_(step < steps)
            loss = self.loss(rows, owner[adam.live], photos, shape)
            adam.keep(loss)
            if step == steps:
                break
            (gradient,) = torch.autograd.grad(loss.sum(), rows)
            moving = adam.step(
                gradient, pose | (latent & free[:, None]) if with_shape else pose.expand_as(rows)
            )
            if shape is not None and not moving.all():
                shape = Shape(shape.vertices[moving], shape.frames[..., moving])
        return adam.best, adam.best_loss

    @torch.no_grad()
    def _solution(self, rows: Tensor, loss: Tensor) -> Solution:
        parameters = Parameters.of(rows)
        azimuth, rest = parameters.viewpoint.split((1, 3), 1)
        viewpoint = torch.cat([azimuth % (2 * math.pi), rest], 1)
        scale = parameters.log_scale.exp()
        vertices = self.renderer.shape(parameters.latent).vertices * scale[:, None, None]
        point = parameters.camera(self.focal, self.image_size).principal_point
        return Solution(viewpoint, point, parameters.latent, scale, loss, vertices)

    def camera(self, solution: Solution) -> Pinhole:
        """The cameras of the crops that a solution was found for, pixels."""
        count = len(solution.viewpoint)
        focal = solution.viewpoint.new_full((count,), self.focal)
        return Pinhole(focal, solution.principal_point, self.image_size)

    @torch.no_grad()
    def masks(self, solution: Solution, photos: EncodedPhotos) -> tuple[Tensor, Tensor]:
        """Amodal and visible masks, bool [N, H, W] each, at crop resolution.

        Amodal is the projection O of the mesh; visible is where, within O, `visible_logit` is positive,
        up-sampled.
        """
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        amodal = rasterize(cam, self.renderer.faces, *self.camera(solution)).face_index >= 0
        logit = self.visible_logit(solution, photos)
        fine = F.interpolate(logit[:, None], size=self.image_size, mode="bilinear", align_corners=False)[:, 0]
        # Cells outside O are 0, so that they do not decide over pixels at the rim: a pixel of O for which no
        # cell speaks is counted visible.
        return amodal, amodal & (fine >= 0)

    @torch.no_grad()
    def visible_logit(self, solution: Solution, photos: EncodedPhotos) -> Tensor:
        """T times the log odds that a cell of the grid [N, h, w] shows the object; 0 beyond O.

        min(f . f' - f . beta, f . f') + T log(p / (1 - p)), T `clutter_temperature` and p `visible_prior`
        (section 3.4 of the paper, where p is 1/2).
        """
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        surface = self.renderer.render(cam, None, self.camera(solution).scaled(1 / self.renderer.stride))
        inside = surface.fragments.face_index >= 0
        feature, evidence = self.renderer.features(surface.sphere[inside], surface.local_view[inside])
        cosine = (feature * photos.features[inside]).sum(-1)
        visible = self.config.visible_prior
        prior = self.config.clutter_temperature * math.log(visible / (1 - visible))
        relative = foreground_logit(cosine, photos.clutter[inside]) + prior
        logit = cosine.new_zeros(inside.shape)
        logit[inside] = torch.where(evidence > LEAST_EVIDENCE, relative, 0.0)
        return logit


def fit_categories(
    solvers: Sequence[Solver], photos: EncodedPhotos, own: Tensor | None = None
) -> tuple[Tensor, list[tuple[Tensor, Solution]]]:
    """Fit every photo under the categories that it may show, and under category `own` [N] where it is given.

    What the best start of a category lacks at the beginning it hardly ever makes up for: a category that is
    behind by more than `class_margin` there is not refined.

    Returns:
        losses [N, M], of a category that is behind its best start's, even where it is refined as a photo's
        own, as the choice of the class must not know the answer; and of every category the numbers [n] of the
        photos fitted under it, with what was found.
    """
    chosen = [solver.starts.choose(photos) for solver in solvers]
    losses = torch.stack([s.least_loss(c, photos) for s, c in zip(solvers, chosen, strict=True)], 1)
    likely = losses <= losses.amin(1, keepdim=True) + solvers[0].config.class_margin
    wanted = likely if own is None else likely.scatter(1, own[:, None], True)
    fits = []
    for c, solver in enumerate(solvers):
        rows = wanted[:, c].nonzero()[:, 0]
        solution = solver.solve(photos.select(rows), chosen[c][rows])
        losses[rows, c] = torch.where(likely[rows, c], solution.loss, losses[rows, c])
        fits.append((rows, solution))
    return losses, fits
