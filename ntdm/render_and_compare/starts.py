"""The start search: every start is rendered once and compared with every photo in one product."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import InferConfig
from ntdm.geometry.camera import cam_from_obj, camera_centre
from ntdm.render_and_compare.encode import LEAST_EVIDENCE, EncodedPhotos, foreground_gain
from ntdm.render_and_compare.parameters import POSE_COLUMNS, Parameters
from ntdm.render_and_compare.renderer import Renderer, Shape

# Cells along the longer side of the grid that starts are compared on, at most: all of them stay in memory.
MOST_CELLS = 48
_RENDERED_AT_ONCE = 256
_MOST_PRODUCTS = 4_000_000  # numbers of one [cells, N, S] product


def posed(renderer: Renderer, parameters: Parameters, shape: Shape) -> tuple[Tensor, Tensor]:
    """Vertices [B, V, 3] in the camera frame, and the directions [B, V, C] that they are seen from."""
    viewpoint = parameters.viewpoint
    vertices = shape.vertices * parameters.log_scale[:, None, None].exp()
    view = renderer.seen_from(shape, vertices, camera_centre(viewpoint))
    return cam_from_obj(vertices, viewpoint), view


class Starts:
    """Every start of one category at one image size: azimuth x elevation x theta x latent.

    Attributes:
        rows: [S, 7 + K] parameter rows; those of one pose follow each other, one a latent.
        pooling: feature cells to a side of the cells on which starts are compared: 2, or more where the
            longer side of the grid would have more than `most_cells`.
    """

    def __init__(
        self, renderer: Renderer, config: InferConfig, image_size: tuple[int, int], focal: float,
        most_cells: int = MOST_CELLS,
    ) -> None:  # fmt: skip
        self.renderer, self.config, self.image_size, self.focal = renderer, config, image_size, focal
        self.pooling = 2
        while max(image_size) // renderer.stride > most_cells * self.pooling:
            self.pooling *= 2
        self.latents = self._latents()
        self.rows = self._rows()
        self._features, self._mask = self._render()

    def _latents(self) -> Tensor:
        """Latents [L, K] that every pose starts with: all CADs', or one: their mean or a random mixture."""
        one_hot = self.renderer.one_hot()
        if self.config.latent_start == "average":
            return one_hot.mean(0, keepdim=True)
        if self.config.latent_start == "random":
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.renderer.category)
            share = torch.rand(1, len(one_hot), generator=generator).clamp_min(1e-9).log().to(one_hot)
            return share / share.sum()  # exponential shares: uniform over all mixtures
        return one_hot

    def _rows(self) -> Tensor:
        config = self.config
        azimuths = [2 * math.pi * i / config.azimuths for i in range(config.azimuths)]
        angles = [[math.radians(x) for x in column] for column in (config.elevations, config.thetas)]
        grid = list(itertools.product(azimuths, *angles))
        poses = torch.tensor(grid, device=self.renderer.faces.device)
        rows = poses.new_zeros(len(poses), len(self.latents), POSE_COLUMNS + self.renderer.num_latents)
        rows[..., :3] = poses[:, None]
        rows[..., 3] = math.log(config.distance)
        rows[..., POSE_COLUMNS:] = self.latents
        return rows.flatten(0, 1)

    @torch.no_grad()
    def _render(self) -> tuple[Tensor, Tensor]:
        """Rendered features [P, d, S] and masks [P, 1, S] on a grid of cells of `pooling` x `pooling`."""
        renderer, maps, masks = self.renderer, [], []
        shapes = renderer.shape(self.latents)
        for number in torch.arange(len(self.rows), device=self.rows.device).split(_RENDERED_AT_ONCE):
            parameters, latent = Parameters.of(self.rows[number]), number % len(self.latents)
            shape = Shape(shapes.vertices[latent], shapes.frames[..., latent])
            camera = parameters.camera(self.focal, self.image_size).scaled(
                1 / (self.pooling * renderer.stride)
            )
            surface = renderer.render(*posed(renderer, parameters, shape), camera)
            hit = surface.fragments.face_index >= 0
            feature, evidence = renderer.features(surface.sphere[hit], surface.local_view[hit])
            rendered = feature.new_zeros(*hit.shape, feature.shape[-1])
            rendered[hit] = feature
            mask = feature.new_zeros(hit.shape)
            mask[hit] = (evidence > LEAST_EVIDENCE).to(mask.dtype)
            maps.append(rendered.flatten(1, 2))
            masks.append(mask.flatten(1, 2))
        features = torch.cat(maps).permute(1, 2, 0).contiguous()
        return features, torch.cat(masks).T[:, None].contiguous()

    @torch.no_grad()
    def losses(self, photos: EncodedPhotos) -> Tensor:
        """The loss of every start against every photo [N, S], hard silhouettes, cells of `pooling`."""
        coarse = F.avg_pool2d(photos.features.permute(0, 3, 1, 2), self.pooling)
        targets = F.normalize(coarse, dim=1).flatten(2).permute(2, 0, 1).contiguous()
        clutter = F.avg_pool2d(photos.clutter[:, None], self.pooling).flatten(1).T[:, :, None]
        gain = targets.new_zeros(len(photos.features), len(self.rows))
        for cells in torch.arange(len(targets)).split(max(1, _MOST_PRODUCTS // max(1, gain.numel()))):
            part = slice(int(cells[0]), int(cells[-1]) + 1)
            cosine = torch.bmm(targets[part], self._features[part])
            gain += (foreground_gain(cosine, clutter[part], self.config) * self._mask[part]).sum(0)
        return 1 - gain / len(targets)

    def choose(self, photos: EncodedPhotos) -> Tensor:
        """The starts that are worth refining, best first: parameter rows [N, refined_starts, 7 + K].

        Of every pose the best latent, and of those the best poses.
        """
        latents = len(self.latents)
        by_pose, latent = self.losses(photos).unflatten(1, (-1, latents)).min(-1)
        kept = min(self.config.refined_starts, by_pose.shape[1])
        poses = by_pose.topk(kept, largest=False).indices
        return self.rows[poses * latents + latent.gather(1, poses)]
