"""Analysis by synthesis: find the pose, shape and masks under which the rendered texture explains a photo.

For one category and a batch of photos: every start (azimuth x elevation x in-plane x latent) is rendered once
and compared with every photo in one product; the best starts are refined by Adam through the rasterizer. The
loss is the clutter-relative mean over all cells i of the feature map (method: Eq. 3 and 10),

    L = 1 - mean_i [ m_i max(f_i . f'_i - f_i . beta_i, -kappa) ]

with m the soft silhouette, f' the rendered feature, f . beta how much f looks like background. Inside the
outline m is 1 and the gradient flows through f'; outside, f' is the texture at the nearest outline point,
held fixed, and the gradient flows through m: it grows the silhouette over cells that look like the object
and, as a cell that looks like background costs kappa, shrinks it from cells that do not. A weak prior keeps
distance and s' near what the crop's normalisation says; it is part of the loss that ranks the classes.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import InferConfig
from ntdm.geometry.camera import cam_from_obj, camera_centre
from ntdm.geometry.mesh import sphere_uv

if TYPE_CHECKING:
    from ntdm.methods.ntdm import NTDM
from ntdm.nn.background import foreground_logit
from ntdm.ops.rasterize import rasterize
from ntdm.ops.soft_silhouette import soft_silhouette
from ntdm.ops.texture_lookup import texture_similarity
from ntdm.render_and_compare.encode import Photos
from ntdm.render_and_compare.renderer import SurfaceMap
from ntdm.render_and_compare.row_adam import Descent

# Columns of a parameter row: azimuth, elevation, theta, log(distance), principal-point offset x and y (in
# tenths of the crop's longer side), log(s'), then the K entries of the latent.
POSE_COLUMNS = 7
_OFFSET_UNIT = 0.1
# A texel of which training saw less than this says nothing: neither for the object nor for the background.
_LEAST_EVIDENCE = 0.05
# Cells along the longer side of the grid that starts are compared on, at most: all of them stay in memory.
_MOST_CELLS = 48


class Solution(NamedTuple):
    """The refined parameters of one category, one row a photo."""

    viewpoint: Tensor  # [N, 4] azimuth in [0, 2 pi), elevation, theta, distance
    principal_point: Tensor  # [N, 2] crop pixels
    latent: Tensor  # [N, K]
    scale: Tensor  # [N] s'
    loss: Tensor  # [N]
    vertices: Tensor  # [N, V, 3] object frame


class Shape(NamedTuple):
    """Γ(z) of B rows, and the frames of its surface."""

    vertices: Tensor  # [B, V, 3] object frame, before s'
    frames: Tensor  # [V, 3, 3, B], see ntdm.nn.neural_texture.LocalView


class Solver:
    """Inference for one category of a model at one image size.

    Args:
        model: trained, in eval mode.
        category: index into model.categories.
        image_size: (H, W) of the crops, multiples of the stride.
        focal: nominal focal length in crop pixels (3000 s), as the annotated distance is not known.
    """

    def __init__(
        self, model: "NTDM", category: int, config: InferConfig, image_size: tuple[int, int], focal: float
    ) -> None:
        self.model, self.config, self.image_size, self.focal = model, config, image_size, focal
        self.shape = model.shape(category)
        self.size = (image_size[0] // model.stride, image_size[1] // model.stride)
        self.pooling = 2  # feature cells to a side of the starts' cells
        while max(self.size) > _MOST_CELLS * self.pooling:
            self.pooling *= 2
        self.category = category
        self.device = model.faces.device
        self.starts = self._starts()
        self._start_features, self._start_mask = self._render_starts()

    def _starts(self) -> Tensor:
        """Every start [S, 7 + K]; those of one pose follow each other, one a latent."""
        config = self.config
        azimuths = [2 * math.pi * i / config.azimuths for i in range(config.azimuths)]
        angles = [[math.radians(x) for x in column] for column in (config.elevations, config.thetas)]
        poses = torch.tensor(list(itertools.product(azimuths, *angles)), device=self.device)
        latents = self._start_latents()
        rows = poses.new_zeros(len(poses), len(latents), POSE_COLUMNS + self.shape.num_latents)
        rows[..., :3] = poses[:, None]
        rows[..., 3] = math.log(config.distance)
        rows[..., POSE_COLUMNS:] = latents
        return rows.flatten(0, 1)

    def _start_latents(self) -> Tensor:
        """Latents [L, K] that every pose starts with: all CADs', or one: their mean or a random mixture."""
        one_hot = self.shape.one_hot()
        if self.config.latent_start == "average":
            return one_hot.mean(0, keepdim=True)
        if self.config.latent_start == "random":
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.category)
            share = torch.rand(1, len(one_hot), generator=generator).clamp_min(1e-9).log().to(one_hot)
            return share / share.sum()  # exponential shares: uniform over all mixtures
        return one_hot

    def _shape(self, latent: Tensor) -> Shape:
        vertices = self.shape(latent)
        return Shape(vertices, self.model.local_view.frames(vertices))

    def _posed(self, rows: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """Vertices [B, V, 3] in the camera frame, and where they are seen from in their own frames."""
        viewpoint = torch.cat([rows[:, :3], rows[:, 3:4].exp()], 1)
        vertices = shape.vertices * rows[:, 6, None, None].exp()
        view = self.model.local_view.seen_from(shape.frames, vertices, camera_centre(viewpoint))
        return cam_from_obj(vertices, viewpoint), view

    def _camera(self, rows: Tensor, cell: int) -> tuple[Tensor, Tensor]:
        """Focal length [B] and principal point [B, 2] in cells of `cell` pixels."""
        height, width = self.image_size
        centre = rows.new_tensor([width / 2, height / 2])
        offset = rows[:, 4:6] * (_OFFSET_UNIT * max(height, width))
        return rows.new_full((len(rows),), self.focal / cell), (centre + offset) / cell

    def _similarity(
        self, sphere: Tensor, view: Tensor, target: Tensor, index: Tensor, clutter: Tensor
    ) -> Tensor:
        """What P points [P] add to the likelihood; zero where the texture was never seen."""
        cosine, evidence = self._cosine(sphere, view, target, index)
        return torch.where(evidence > _LEAST_EVIDENCE, self._gain(cosine, clutter), 0.0)

    def _gain(self, cosine: Tensor, clutter: Tensor) -> Tensor:
        """What a cell inside the outline adds to the likelihood, given f . f' and f . beta.

        max(f . f' - f . beta, -kappa); without the background term (Table 3) f . f' of the cells that are
        foreground, and nothing for the others.
        """
        relative = cosine - clutter
        if self.config.background_term:
            return relative.clamp_min(-self.config.clutter_weight)
        return torch.where((relative > 0) & (cosine > 0), cosine, 0.0)

    def _cosine(self, sphere: Tensor, view: Tensor, target: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """f . f' [P] of surface points with target[index], and the evidence [P] for f'."""
        alpha = self.model.texture.alpha(view)
        which = index.new_full((len(sphere),), self.category)
        texture = self.model.texture
        return texture_similarity(texture.theta, texture.seen, which, sphere_uv(sphere), alpha, target, index)

    def _rendered(self, surface: SurfaceMap, inside: Tensor) -> tuple[Tensor, Tensor]:
        """f' [P, d] at the cells `inside` [B, h, w] of a surface map, and the evidence [P] for it."""
        alpha = self.model.texture.alpha(surface.local_view[inside])
        which = torch.full((len(alpha),), self.category, device=self.device)
        return self.model.texture.lookup(which, sphere_uv(surface.sphere[inside]), alpha)

    @torch.no_grad()
    def _render_starts(self, chunk: int = 256) -> tuple[Tensor, Tensor]:
        """Rendered features [P, d, S] and masks [P, 1, S] on a grid of cells of `pooling` x `pooling`."""
        cell = self.pooling * self.model.stride
        size = (self.image_size[0] // cell, self.image_size[1] // cell)
        maps, masks = [], []
        latents = self._start_latents()
        shapes = self._shape(latents)
        for number in torch.arange(len(self.starts), device=self.device).split(chunk):
            rows, latent = self.starts[number], number % len(latents)
            posed, view = self._posed(rows, Shape(shapes.vertices[latent], shapes.frames[..., latent]))
            surface = self.model.surface_map(posed, *self._camera(rows, cell), size, view)
            hit = surface.fragments.face_index >= 0
            feature, evidence = self._rendered(surface, hit)
            rendered = feature.new_zeros(*hit.shape, feature.shape[-1])
            rendered[hit] = feature
            mask = feature.new_zeros(hit.shape)
            mask[hit] = (evidence > _LEAST_EVIDENCE).to(mask.dtype)
            maps.append(rendered.flatten(1, 2))
            masks.append(mask.flatten(1, 2))
        features = torch.cat(maps).permute(1, 2, 0).contiguous()
        return features, torch.cat(masks).T[:, None].contiguous()

    @torch.no_grad()
    def start_losses(self, photos: Photos) -> Tensor:
        """The loss of every start against every photo [N, S], hard silhouettes, cells of `pooling`."""
        coarse = F.avg_pool2d(photos.features.permute(0, 3, 1, 2), self.pooling)
        targets = F.normalize(coarse, dim=1).flatten(2).permute(2, 0, 1).contiguous()
        clutter = F.avg_pool2d(photos.clutter[:, None], self.pooling).flatten(1).T[:, :, None]
        gain = targets.new_zeros(len(photos.features), len(self.starts))
        chunk = max(1, 4_000_000 // max(1, gain.numel()))  # bounds the [chunk, N, S] products
        for cells in torch.arange(len(targets)).split(chunk):
            part = slice(int(cells[0]), int(cells[-1]) + 1)
            cosine = torch.bmm(targets[part], self._start_features[part])
            gain += (self._gain(cosine, clutter[part]) * self._start_mask[part]).sum(0)
        return 1 - gain / len(targets)

    def choose(self, photos: Photos) -> Tensor:
        """The starts that are worth refining, best first: parameter rows [N, refined_starts, 7 + K]."""
        latents = len(self._start_latents())
        by_pose, latent = self.start_losses(photos).unflatten(1, (-1, latents)).min(-1)
        kept = min(self.config.refined_starts, by_pose.shape[1])
        poses = by_pose.topk(kept, largest=False).indices
        return self.starts[poses * latents + latent.gather(1, poses)]

    @torch.no_grad()
    def least_loss(self, chosen: Tensor, photos: Photos) -> Tensor:
        """The loss of the best of `chosen` [N, kept, 7 + K] for every photo, as they are [N]."""
        owner = torch.arange(len(chosen), device=self.device).repeat_interleave(chosen.shape[1])
        return self.loss(chosen.flatten(0, 1), owner, photos).unflatten(0, chosen.shape[:2]).amin(1)

    def solve(self, photos: Photos, chosen: Tensor | None = None) -> Solution:
        """Refine the chosen starts of every photo and keep the best result; by default those of `choose`."""
        chosen = self.choose(photos) if chosen is None else chosen
        count, kept = chosen.shape[:2]
        photo = torch.arange(count, device=self.device)
        owner = photo.repeat_interleave(kept)
        rows, loss = self._refine(
            chosen.flatten(0, 1), owner, photos, self.config.screening_steps if kept > 1 else 0
        )
        winner = loss.unflatten(0, (count, kept)).argmin(1) + photo * kept
        rows, loss = self._refine(rows[winner], photo, photos, self.config.steps, self.config.patience)
        return self._solution(rows, loss)

    def loss(self, rows: Tensor, owner: Tensor, photos: Photos, shape: Shape | None = None) -> Tensor:
        """L of B parameter rows [B, 7 + K], row i against photo owner[i]; differentiable -> [B].

        `shape` is the rows' where it is known and z is not being optimised.
        """
        vertices_cam, view = self._posed(rows, shape or self._shape(rows[:, POSE_COLUMNS:]))
        focal, point = self._camera(rows, self.model.stride)
        surface = self.model.surface_map(vertices_cam, focal, point, self.size, view)
        inside = surface.fragments.face_index >= 0
        target, cells = photos.features.flatten(0, 2), self.size[0] * self.size[1]
        flat = (owner * cells)[:, None, None] + torch.arange(cells, device=self.device).reshape(self.size)
        clutter = photos.clutter.flatten()
        index = flat[inside]
        gain = self._similarity(
            surface.sphere[inside], surface.local_view[inside], target, index, clutter[index]
        )
        total = self._per_row(gain, inside)
        if self.config.silhouette == "soft":
            total = total + self._outside_gain(rows, vertices_cam, focal, point, surface, flat, photos)
        # Without it a texture that explains little would make the object vanish: an empty picture costs 1.
        size = (rows[:, 3] - math.log(self.config.distance)).square() + rows[:, 6].square()
        return 1 - total / cells + self.config.size_prior * size

    def _outside_gain(
        self, rows: Tensor, vertices_cam: Tensor, focal: Tensor, point: Tensor, surface: SurfaceMap,
        flat: Tensor, photos: Photos,
    ) -> Tensor:  # fmt: skip
        """Sum over cells just outside the outline of soft mask times the gain of its nearest texture."""
        edge = soft_silhouette(
            vertices_cam, self.model.faces, focal, point, surface.fragments, self.config.sigma
        )
        band = edge.nearest_face >= 0
        with torch.no_grad():
            corners = self.model.faces[edge.nearest_face[band]]
            row = band.nonzero()[:, 0]
            weights = edge.nearest_barycentric[band][..., None]
            sphere, view = (surface.attributes[row[:, None], corners] * weights).sum(1).split(3, -1)
            index = flat[band]
            gain = self._similarity(
                sphere, view, photos.features.flatten(0, 2), index, photos.clutter.flatten()[index]
            )
        return self._per_row(edge.soft[band] * gain, band)

    @staticmethod
    def _per_row(values: Tensor, mask: Tensor) -> Tensor:
        """Sums [B] of the values that stand at the true cells of mask [B, h, w]."""
        return values.new_zeros(len(mask)).index_add(0, mask.nonzero()[:, 0], values)

    def _refine(
        self, rows: Tensor, owner: Tensor, photos: Photos, steps: int, patience: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Adam on every row alone (row_adam.py); returns the best rows seen and their losses.

        The latent moves on every `shape_every`-th step only: Psi costs as much as all the rest of a step. It
        waits for `shape_after` steps or the second rate, lest it explain a pose that is still wrong.
        """
        config = self.config
        pose = torch.zeros(rows.shape[1], dtype=torch.bool, device=self.device)
        pose[:3] = True
        pose[3], pose[4:6], pose[6] = (
            config.refine_distance, config.refine_principal_point, config.refine_scale,
        )  # fmt: skip
        latent = torch.arange(rows.shape[1], device=self.device) >= POSE_COLUMNS
        descent = Descent(rows, config, steps, patience)
        shape: Shape | None = None
        for step in range(steps + 1):
            if len(descent.live) == 0:
                break
            free = (descent.rate > 0) | (step >= config.shape_after)
            with_shape = (
                config.refine_shape
                and step % config.shape_every == config.shape_every - 1
                and bool(free.any())
            )
            if with_shape:
                shape = None
            elif shape is None:
                with torch.no_grad():
                    shape = self._shape(descent.rows[:, POSE_COLUMNS:])
            rows = descent.rows.detach().requires_grad_(step < steps)
            loss = self.loss(rows, owner[descent.live], photos, shape)
            descent.keep(loss)
            if step == steps:
                break
            (gradient,) = torch.autograd.grad(loss.sum(), rows)
            moving = descent.step(
                gradient, pose | (latent & free[:, None]) if with_shape else pose.expand_as(rows)
            )
            if shape is not None and not moving.all():
                shape = Shape(shape.vertices[moving], shape.frames[..., moving])
        return descent.best, descent.best_loss

    @torch.no_grad()
    def _solution(self, rows: Tensor, loss: Tensor) -> Solution:
        viewpoint = torch.cat([rows[:, :1] % (2 * math.pi), rows[:, 1:3], rows[:, 3:4].exp()], 1)
        latent = rows[:, POSE_COLUMNS:]
        vertices = self.shape(latent, rows[:, 6].exp())
        return Solution(viewpoint, self._camera(rows, 1)[1], latent, rows[:, 6].exp(), loss, vertices)

    @torch.no_grad()
    def masks(self, solution: Solution, photos: Photos) -> tuple[Tensor, Tensor]:
        """Amodal and visible masks, bool [N, H, W] each, at crop resolution.

        Amodal is the projection O of the mesh; visible is where, within O, `visible_logit` is positive,
        up-sampled.
        """
        count = len(photos.features)
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        focal = cam.new_full((count,), self.focal)
        full = rasterize(cam, self.model.faces, focal, solution.principal_point, self.image_size)
        amodal = full.face_index >= 0
        logit = self.visible_logit(solution, photos)
        fine = F.interpolate(logit[:, None], size=self.image_size, mode="bilinear", align_corners=False)[:, 0]
        # Cells outside O are 0, so that they do not decide over pixels at the rim; what no cell speaks for is
        # counted visible.
        return amodal, amodal & (fine >= 0)

    @torch.no_grad()
    def visible_logit(self, solution: Solution, photos: Photos) -> Tensor:
        """T times the log odds that a cell of the grid [N, h, w] shows the object; 0 beyond O.

        min(f . f' - f . beta, f . f') + T log(p / (1 - p)), T `clutter_temperature` and p `visible_prior`
        (method: 3.4, where p is 1/2).
        """
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        focal = cam.new_full((len(cam),), self.focal / self.model.stride)
        surface = self.model.surface_map(cam, focal, solution.principal_point / self.model.stride, self.size)
        inside = surface.fragments.face_index >= 0
        feature, evidence = self._rendered(surface, inside)
        cosine = (feature * photos.features[inside]).sum(-1)
        visible = self.config.visible_prior
        prior = self.config.clutter_temperature * math.log(visible / (1 - visible))
        relative = foreground_logit(cosine, photos.clutter[inside]) + prior
        logit = cosine.new_zeros(inside.shape)
        logit[inside] = torch.where(evidence > _LEAST_EVIDENCE, relative, 0.0)
        return logit


def fit_categories(
    solvers: Sequence[Solver], photos: Photos, own: Tensor | None = None
) -> tuple[Tensor, list[tuple[Tensor, Solution]]]:
    """Fit every photo under the categories that it may show, and under category `own` [N] where it is given.

    What the best start of a category lacks at the beginning it hardly ever makes up for: a category that is
    behind by more than `class_margin` there is not refined.

    Returns:
        losses [N, M], of a category that is behind its best start's, even where it is refined as a photo's
        own, as the choice of the class must not know the answer; and of every category the numbers [n] of the
        photos fitted under it, with what was found.
    """
    chosen = [solver.choose(photos) for solver in solvers]
    losses = torch.stack([s.least_loss(c, photos) for s, c in zip(solvers, chosen, strict=True)], 1)
    likely = losses <= losses.amin(1, keepdim=True) + solvers[0].config.class_margin
    wanted = likely if own is None else likely.scatter(1, own[:, None], True)
    fits = []
    for c, solver in enumerate(solvers):
        rows = wanted[:, c].nonzero()[:, 0]
        solution = solver.solve(photos.of(rows), chosen[c][rows])
        losses[rows, c] = torch.where(likely[rows, c], solution.loss, losses[rows, c])
        fits.append((rows, solution))
    return losses, fits
