"""The whole model: backbone, neural textures, background bank and one deformable shape a category.

Training (:meth:`NTDM.training_loss`) carries the photo's features onto the surface and classifies them;
inference (ntdm/render_and_compare) renders the textures back and compares. Maps live on the backbone's grid:
a crop of H x W pixels has features of h x w = H/stride x W/stride cells, whose camera is the crop's with
focal length and principal point divided by the stride (pixel frames are corner-origin, so nothing shifts).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.config.stages import InferConfig, check_choice, check_range
from ntdm.data import distributed
from ntdm.data.batch import Batch
from ntdm.geometry.camera import Pinhole, cam_from_obj
from ntdm.geometry.mesh import sphere_uv
from ntdm.methods.base import FITTED_SHAPES, Method
from ntdm.nn import backbone
from ntdm.nn.background import BackgroundBank, clutter_mixture, foreground_logit
from ntdm.nn.base import FeatureConfig, FeatureModel, Guess
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.nn.losses import occlusion_cross_entropy, texel_cross_entropy
from ntdm.nn.neural_texture import LocalView, NeuralTexture, texel_points
from ntdm.ops.rasterize import interpolate, rasterize
from ntdm.ops.texture_lookup import texture_similarity
from ntdm.ops.uv_scatter import uv_scatter
from ntdm.render_and_compare.encode import encode
from ntdm.render_and_compare.renderer import Shape, SurfaceMap
from ntdm.render_and_compare.solver import Solver, fit_categories

# A texel is a positive once this share of its blend was seen.
KNOWN_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class NTDMConfig(FeatureConfig):
    """[train] and [train.ntdm]: texture, scattering and contrast."""

    method: str = "ntdm"
    view_bins: int = 7
    view_temperature: float = 4.0
    texture_size: int = 64
    first_visit_alpha: float = 0.05
    quad_extent: float = 0.2  # widest quad, in u or v, that is scattered
    same_class_negatives: int = 512
    other_class_negatives: int = 200  # each other class
    far_angle: float = 0.245  # radians on the template sphere
    clutter_count: float = 128.0  # features that the bank counts as where a patch hides, as in inference's

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "train", "method", "ntdm")
        check_range(self, "train", 1, None, "view_bins", "texture_size")
        negatives = ("same_class_negatives", "other_class_negatives")
        check_range(self, "train", 0, None, *negatives, "view_temperature")
        check_range(self, "train", 0, 1, "first_visit_alpha", "quad_extent")
        check_range(self, "train", 0, 4, "far_angle")
        check_range(self, "train", 1e-3, None, "clutter_count")


class NTDM(FeatureModel):
    """Neural textured deformable meshes for M categories.

    Args:
        config: the training configuration.
        shapes: category -> fitted shape; all on one template. They are frozen.
    """

    def __init__(self, config: NTDMConfig, shapes: Mapping[str, DeformableMesh]) -> None:
        super().__init__()
        if not shapes:
            raise ValueError("model: no shapes given; run `ntdm fit-shapes` first")
        self.config = config
        self.categories = tuple(sorted(shapes))
        # By number: a ModuleDict takes no key that a module has as an attribute, and "train" is a category.
        self.shapes = nn.ModuleList([shapes[c] for c in self.categories]).requires_grad_(False)
        template = shapes[self.categories[0]].template
        sizes = {c: len(shapes[c].template.vertices) for c in self.categories}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"model: the shapes' templates differ in vertices {sizes}; fit them with one config"
            )
        self.backbone = backbone.feature_net(config.backbone, config.feature_dim, config.backbone_weights)
        self.texture = NeuralTexture(
            len(shapes), config.texture_size, config.view_bins, config.feature_dim, config.view_temperature
        )
        self.bank = BackgroundBank(config.background_bank, config.feature_dim)
        self.local_view = LocalView(template)
        self.register_buffer("sphere", template.vertices, persistent=False)
        self.register_buffer("faces", template.faces, persistent=False)
        self.register_buffer("texels", texel_points(config.texture_size), persistent=False)

    config: NTDMConfig
    sphere: Tensor
    faces: Tensor
    texels: Tensor

    def shape(self, category: int) -> DeformableMesh:
        """Γ of a category by its index."""
        shape = self.shapes[category]
        assert isinstance(shape, DeformableMesh)
        return shape

    @property
    def num_latents(self) -> list[int]:
        """K of each category."""
        return [self.shape(c).num_latents for c in range(len(self.categories))]

    def surface_map(self, vertices_cam: Tensor, camera: Pinhole, view: Tensor | None = None) -> SurfaceMap:
        """Rasterize deformed templates.

        Args:
            vertices_cam: [B, V, 3] in the camera frame.
            camera: in the pixels, or cells, of the grid.
            view: [B, V, 3] directions to the camera in the vertices' frames, where they are known already.
        """
        fragments = rasterize(vertices_cam, self.faces, *camera)
        if view is None:
            view = self.local_view(vertices_cam)
        attributes = torch.cat([self.sphere.expand_as(view), view], -1)
        return SurfaceMap(fragments, attributes, *interpolate(attributes, self.faces, fragments).split(3, -1))

    def training_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The losses of a batch; then moves textures and background bank towards its features.

        Returns:
            the contrastive loss, a mean over the texels of the batch, plus `occlusion_weight` times the mean
            over its hidden cells; and figures for the log.
        """
        config, texels = self.config, self.config.texture_size**2
        features = self.features(batch.photo)
        surface = self.annotated_surface(batch, (features.shape[1], features.shape[2]))
        scattered, weight = self._scatter(features, surface, batch)
        background = distributed.all_gather_rows(self._background_samples(features, batch, generator))
        image, texel = (weight > 0).nonzero(as_tuple=True)  # P visible texels, image by image
        place = image * texels + texel
        with torch.no_grad():
            visible, view = scattered.index_select(0, place).split([config.feature_dim, 3], 1)
            visible, alpha = F.normalize(visible, dim=1), self.texture.alpha(view)
        # Every process draws for the photos of all, and works on its own.
        counts, mine = distributed.all_gather_counts(
            torch.bincount(image, minlength=len(batch.photo)).tolist()
        )
        categories, _ = distributed.all_gather_counts(batch.category)
        first = sum(counts[: mine.start])
        starts = [start - first for start in itertools.accumulate([0, *counts])]
        groups = []
        for category in sorted(set(categories)):
            drawn = [
                (i, torch.randperm(counts[i], generator=generator)[: config.positives])
                for i, c in enumerate(categories)
                if c == category
            ]
            picked = [starts[i] + pick for i, pick in drawn if mine.start <= i < mine.stop]
            rows = torch.cat([*picked, torch.zeros(0, dtype=torch.int64)]).to(texel.device)
            own, evidence = self.texture.at_texels(category, texel[rows], alpha[rows])
            known = evidence > KNOWN_SHARE
            groups.append((category, rows[known], own[known]))
        # One gather, so that its derivative is one scatter and not one full map an image.
        chosen = torch.cat([rows for _, rows, _ in groups])
        anchors = F.normalize(scattered.index_select(0, place[chosen])[:, : config.feature_dim], dim=1)
        # Every rank must compute every loss term: all_reduce in backward waits for all of them.
        loss, cosine = features.sum() * 0.0 + background.sum() * 0.0, 0.0
        for (category, rows, own), anchor in zip(
            groups, anchors.split([len(g[1]) for g in groups]), strict=True
        ):
            negatives = self._negatives(category, self.texels[texel[rows]], background, generator)
            loss = loss + len(rows) * texel_cross_entropy(anchor, own, *negatives, config.temperature)
            cosine += float((anchor.detach() * own).sum())
        count = int(distributed.all_reduce_sum(len(chosen)))
        loss = loss / max(count, 1)
        if config.occlusion_weight > 0:
            loss = loss + config.occlusion_weight * self._occlusion_loss(features, surface, batch)
        texel, visible, alpha = (distributed.all_gather_rows(rows) for rows in (texel, visible, alpha))
        for category, *found in zip(
            categories, texel.split(counts), visible.split(counts), alpha.split(counts), strict=True
        ):
            at, feature, blend = found
            self.texture.update(
                category, at, feature, blend, config.texture_momentum, config.first_visit_alpha
            )
        self.bank.push(background.detach())
        return loss, {
            "loss": distributed.all_reduce_sum(float(loss.detach())),
            "positive_cosine": distributed.all_reduce_sum(cosine) / max(count, 1),
            "texels": count,
        }

    @torch.no_grad()
    def annotated_surface(self, batch: Batch, size: tuple[int, int]) -> SurfaceMap:
        """The annotated meshes on the features' grid."""
        camera = Pinhole(batch.focal / self.stride, batch.principal_point / self.stride, size)
        return self.surface_map(cam_from_obj(self.annotated_shapes(batch), batch.viewpoint), camera)

    def _scatter(self, features: Tensor, surface: SurfaceMap, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features and view directions at the texels [B * q * q, d + 3], and the weights [B, q * q].

        Means of unit vectors, not yet normalised: few of the texels are needed with a gradient.
        """
        with torch.no_grad():
            covered = surface.fragments.face_index >= 0
            if batch.hidden is not None:
                covered &= ~self._touched(batch.hidden)
            uv = sphere_uv(torch.where(covered[..., None], surface.sphere, self.sphere[0]))
        mean, weight = uv_scatter(
            torch.cat([features, surface.local_view], -1),
            uv,
            covered,
            self.config.texture_size,
            max_extent=self.config.quad_extent,
        )
        return mean.flatten(0, 2), weight.flatten(1, 2)

    def _occlusion_loss(self, features: Tensor, surface: SurfaceMap, batch: Batch) -> Tensor:
        """Cross entropy of the cells where a patch of background hides the object; a scalar.

        It teaches them the answer that inference wants there: that the background explains them better than
        the texture, by inference's mixture, and with no `visible_prior`.
        Textures and bank are constants here. A mean over the cells of all processes, of which this is its
        own part; zero without patches, and while the bank is empty.

        Args:
            features: unit [B, h, w, d].
            surface: the annotated meshes on their grid.
            batch: whose patches hide the cells.
        """
        config, bank = self.config, self.bank.valid()
        if batch.hidden is None or len(bank) == 0:
            return features.new_zeros(())
        bank = bank.clone()  # push overwrites it before the backward pass
        hidden = (surface.fragments.face_index >= 0) & self._empty(batch) & self._touched(batch.hidden)
        with torch.no_grad():
            category = torch.tensor(batch.category, device=hidden.device)[hidden.nonzero()[:, 0]]
            alpha = self.texture.alpha(surface.local_view[hidden])
            texture, evidence = self.texture.lookup(category, sphere_uv(surface.sphere[hidden]), alpha)
            known = evidence > KNOWN_SHARE
        seen = features[hidden][known]
        cosine = (seen * texture[known]).sum(-1)
        clutter = clutter_mixture(seen, bank, config.temperature, config.clutter_count)
        share = len(seen) / max(distributed.all_reduce_sum(len(seen)), 1.0)  # of the cells of all processes
        return share * occlusion_cross_entropy(foreground_logit(cosine, clutter), config.temperature)

    def annotated_shapes(self, batch: Batch) -> Tensor:
        """Γ(z) of the batch's annotated latents [B, V, 3]."""
        order = sorted(range(len(batch.category)), key=batch.category.__getitem__)
        parts = []
        for category, rows in itertools.groupby(order, key=batch.category.__getitem__):
            parts.append(self.shape(category)(torch.stack([batch.latent[i] for i in rows])))
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _negatives(
        self, category: int, points: Tensor, background: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features [M, d], log weights [M] and far mask [N, M] that texels at `points` [N, 3] compete with.

        The batch's own background keeps its gradient, so that background cells, too, learn to be told
        from the texture; the bank's is from earlier steps.
        """
        config = self.config
        same, texels = self.texture.sample(category, config.same_class_negatives, generator)
        others = [
            self.texture.sample(other, config.other_class_negatives, generator)[0]
            for other in range(len(self.categories))
            if other != category
        ]
        clutter = torch.cat([background, self.bank.sample(config.background_negatives, generator)])
        rest = torch.cat([*others, clutter])
        log_weight = points.new_zeros(len(same) + len(rest))
        log_weight[len(log_weight) - len(clutter) :] = (
            math.log(config.background_weight) if config.background_weight else -math.inf
        )
        near_cosine = math.cos(config.far_angle)
        far = points @ self.texels[texels].T < near_cosine
        far = torch.cat([far, far.new_ones(len(points), len(rest))], 1)
        return torch.cat([same, rest]), log_weight, far


class TextureRenderer:
    """One category with its neural texture, for the solver; see ntdm/render_and_compare/renderer.py."""

    def __init__(self, model: NTDM, category: int) -> None:
        self.model, self.category = model, category
        self.mesh = model.shape(category)
        self.stride, self.faces, self.num_latents = model.stride, model.faces, self.mesh.num_latents

    def one_hot(self) -> Tensor:
        """[K, K]: the latent of every CAD."""
        return self.mesh.one_hot()

    def shape(self, latent: Tensor) -> Shape:
        """Γ of latents [B, K], and the frames of its surface."""
        vertices = self.mesh(latent)
        return Shape(vertices, self.model.local_view.frames(vertices))

    def seen_from(self, shape: Shape, vertices: Tensor, centre: Tensor) -> Tensor:
        """Directions [B, V, 3] in (du, dv, n) to camera centres [B, 3]; s' leaves the frames as they are."""
        return self.model.local_view.seen_from(shape.frames, vertices, centre)

    def render(self, vertices_cam: Tensor, view: Tensor | None, camera: Pinhole) -> SurfaceMap:
        """Template points and view directions on the camera's grid."""
        return self.model.surface_map(vertices_cam, camera, view)

    def features(self, sphere: Tensor, local_view: Tensor) -> tuple[Tensor, Tensor]:
        """Blended texture f' [P, d] (Eq. 4 and 5) and the evidence [P] for it."""
        which = torch.full((len(sphere),), self.category, device=sphere.device)
        return self.model.texture.lookup(which, sphere_uv(sphere), self.model.texture.alpha(local_view))

    def similarity(
        self, sphere: Tensor, local_view: Tensor, target: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f' . target[index] [P] without f' itself, and the evidence [P]."""
        texture, which = self.model.texture, index.new_full((len(sphere),), self.category)
        alpha = texture.alpha(local_view)
        return texture_similarity(texture.theta, texture.seen, which, sphere_uv(sphere), alpha, target, index)


class NTDMPredictor:
    """Fits every photo under its own category and all that it may show; the lowest loss names the class."""

    def __init__(self, model: NTDM, config: InferConfig, image_size: tuple[int, int], focal: float) -> None:
        self.model, self.config = model, config
        self.solvers = [
            Solver(TextureRenderer(model, c), config, image_size, focal) for c in range(len(model.categories))
        ]

    def __call__(self, photo: Tensor, category: Sequence[int]) -> Guess:
        """Pose, masks, shape and class of uint8 photos [N, 3, H, W]."""
        photos, own = encode(self.model, photo, self.config), torch.tensor(category, device=photo.device)
        losses, fits = fit_categories(self.solvers, photos, own)
        lowest, best = losses.min(1)
        count, numbers = len(photo), losses.new_zeros
        viewpoint, free_viewpoint, scale = numbers(count, 4), numbers(count, 4), numbers(count)
        latent = losses.new_full((count, max(self.model.num_latents)), torch.nan)
        amodal = torch.zeros(count, *photo.shape[2:], dtype=torch.bool, device=photo.device)
        visible, amodal_free = amodal.clone(), amodal.clone()
        for c, (rows, solution) in enumerate(fits):
            seen, shown = self.solvers[c].masks(solution, photos.select(rows))
            mine, free = own[rows] == c, best[rows] == c
            for whole, found in (
                (viewpoint, solution.viewpoint),
                (latent[:, : self.model.num_latents[c]], solution.latent),
                (scale, solution.scale),
                (amodal, seen),
                (visible, shown),
            ):
                whole[rows[mine]] = found[mine]
            free_viewpoint[rows[free]], amodal_free[rows[free]] = solution.viewpoint[free], seen[free]
        return Guess(
            viewpoint=viewpoint,
            free_viewpoint=free_viewpoint,
            category=best,
            score=1 - lowest,
            amodal=amodal,
            visible=visible,
            amodal_free=amodal_free,
            latent=latent,
            scale=scale,
        )


METHOD = Method(
    name="ntdm",
    config=NTDMConfig,
    build=lambda config, _, shapes: NTDM(config, shapes),
    predictor=NTDMPredictor,
    shapes=FITTED_SHAPES,
    joint=True,
)
