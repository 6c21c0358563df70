"""NeMo: a cuboid a category whose vertices carry features, compared with a photo's (Wang et al., ICLR 2021).

The backbone, rasterizer and solver are NTDM's. NeMo's own: the mesh (cuboid.py), one feature a vertex instead
of a texture of view bins, contrast within the category and with the background only, and a reconstruction
loss without soft silhouette, shape, size or a price for background inside the outline. It predicts the pose
under a given category, nothing else.

NeMo trains one network a category; this is one network for all of them, as NTDM is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.config.stages import InferConfig, check_choice, check_range
from ntdm.data.batch import Batch
from ntdm.geometry.camera import Pinhole, cam_from_obj, camera_centre, project
from ntdm.methods.base import Method
from ntdm.methods.cuboid import CUBOIDS, Cuboid
from ntdm.nn import backbone
from ntdm.nn.background import BackgroundBank
from ntdm.nn.base import FeatureConfig, FeatureModel, Guess
from ntdm.nn.losses import texel_cross_entropy
from ntdm.ops.rasterize import interpolate, rasterize
from ntdm.render_and_compare.encode import encode
from ntdm.render_and_compare.renderer import Shape, SurfaceMap
from ntdm.render_and_compare.solver import Solver

# NeMo's weight of the term that keeps the photo's background features away from all vertices' features.
CLUTTER_PUSH = 0.1


@dataclass(frozen=True, kw_only=True)
class NeMoConfig(FeatureConfig):
    """[train] and [train.nemo]: the cuboid and the contrast within it."""

    method: str = "nemo"
    vertices: int = 1000  # of a cuboid, about
    near_distance: float = 0.08  # vertices nearer than this are no negatives; CAD units

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "train", "method", "nemo")
        check_range(self, "train", 24, 100_000, "vertices")
        check_range(self, "train", 0, None, "near_distance")


class NeMo(FeatureModel):
    """Backbone, vertex features and background bank.

    Args:
        config: the training configuration.
        shapes: category -> Cuboid.
    """

    def __init__(self, config: NeMoConfig, shapes: Mapping[str, Cuboid]) -> None:
        super().__init__()
        self.config = config
        self.categories = tuple(sorted(shapes))
        self.shapes = nn.ModuleList([shapes[c] for c in self.categories])
        self.backbone = backbone.feature_net(config.backbone, config.feature_dim, config.backbone_weights)
        self.bank = BackgroundBank(config.background_bank, config.feature_dim)
        widest = max(len(shapes[c].vertices) for c in self.categories)
        self.register_buffer("vertex_features", torch.zeros(len(shapes), widest, config.feature_dim))
        self.register_buffer("seen", torch.zeros(len(shapes), widest, dtype=torch.bool))

    config: NeMoConfig
    vertex_features: Tensor  # unit [M, V, d], V of the largest cuboid
    seen: Tensor  # [M, V]: training has come by

    def cuboid(self, category: int) -> Cuboid:
        """The mesh of a category by its number."""
        shape = self.shapes[category]
        assert isinstance(shape, Cuboid)
        return shape

    def training_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of seen vertices' features among its cuboid's and the background's; moves both.

        Returns:
            mean over the seen vertices of the batch, plus CLUTTER_PUSH times the background's mean cosine
            with the vertices; and figures for the log.
        """
        config = self.config
        features = self.features(batch.photo)
        background = self._background_samples(features, batch, generator)
        loss, push = features.sum() * 0.0, features.sum() * 0.0
        count, cosine = 0, 0.0
        for category in sorted(set(batch.category)):
            rows = [i for i, c in enumerate(batch.category) if c == category]
            anchors, vertex = self._seen_vertices(features, batch, rows, category)
            bank, seen = self.vertex_features[category], self.seen[category]
            known = seen[vertex].nonzero()[:, 0].cpu()
            # `positives` is a photo's share, as in NTDM.
            known = known[torch.randperm(len(known), generator=generator)[: config.positives * len(rows)]]
            known = known.to(vertex.device)
            own, negatives = bank[vertex[known]], bank[seen]
            if len(known):
                where = self.cuboid(category).vertices
                far = torch.cdist(where[vertex[known]], where[seen.nonzero()[:, 0]]) > config.near_distance
                clutter = self.bank.sample(config.background_negatives, generator)
                log_weight = math.log(config.background_weight) if config.background_weight else -math.inf
                weights = torch.cat(
                    [bank.new_zeros(len(negatives)), bank.new_full((len(clutter),), log_weight)]
                )
                far = torch.cat([far, far.new_ones(len(known), len(clutter))], 1)
                negatives = torch.cat([negatives, clutter])
                loss = loss + len(known) * texel_cross_entropy(
                    anchors.index_select(0, known), own, negatives, weights, far, config.temperature
                )
                cosine += float((anchors[known].detach() * own).sum())
                push = push + (background @ bank[seen].T).mean() if len(background) else push
            count += len(known)
            self._update(category, vertex, anchors.detach())
        loss = loss / max(count, 1) + CLUTTER_PUSH * push / len(set(batch.category))
        self.bank.push(background.detach())
        return loss, {
            "loss": float(loss.detach()), "positive_cosine": cosine / max(count, 1), "vertices": count,
        }  # fmt: skip

    def _seen_vertices(
        self, features: Tensor, batch: Batch, rows: list[int], category: int
    ) -> tuple[Tensor, Tensor]:
        """Unit features [P, d] at the vertices that photos `rows` show, and the vertices' numbers [P]."""
        viewpoint = batch.viewpoint[rows]
        cuboid = self.cuboid(category)
        vertices = cam_from_obj(cuboid.vertices.expand(len(rows), -1, -1), viewpoint)
        xy, depth = project(vertices, batch.focal[rows], batch.principal_point[rows])
        size = xy.new_tensor([batch.photo.shape[3], batch.photo.shape[2]])
        shown = cuboid.seen_from(camera_centre(viewpoint)) & (depth > 0)
        shown &= ((xy >= 0) & (xy < size)).all(-1)
        if batch.hidden is not None:
            x, y = xy.clamp_min(0).long().minimum(size.long() - 1).unbind(-1)
            image = torch.tensor(rows, device=xy.device)[:, None]
            shown &= ~batch.hidden[image, y, x]
        grid = (2 * xy / size - 1)[:, :, None]
        sampled = F.grid_sample(
            features[rows].permute(0, 3, 1, 2), grid, align_corners=False, padding_mode="border"
        )
        which = shown.nonzero()
        return F.normalize(sampled[..., 0].transpose(1, 2)[shown], dim=-1), which[:, 1]

    @torch.no_grad()
    def _update(self, category: int, vertex: Tensor, found: Tensor) -> None:
        """Move the vertices' features towards the batch's mean of what was found [P, d] on them."""
        bank, seen = self.vertex_features[category], self.seen[category]
        mean = F.normalize(torch.zeros_like(bank).index_add(0, vertex, found), dim=-1)
        now = torch.zeros_like(seen).index_fill(0, vertex, True)
        m = self.config.texture_momentum
        moved = F.normalize(m * bank + (1 - m) * mean, dim=-1)
        self.vertex_features[category] = torch.where(
            (now & seen)[:, None], moved, torch.where(now[:, None], mean, bank)
        )
        self.seen[category] |= now


class VertexRenderer:
    """One category with its vertices' features, for the solver; see ntdm/render_and_compare/renderer.py.

    A surface point is named by its feature, interpolated from the vertices', and a last number that says how
    much of it was learned. Features do not depend on the view: directions have no component.
    """

    num_latents = 1  # the cuboid's, which has no freedom

    def __init__(self, model: NeMo, category: int) -> None:
        self.category, self.stride, self.cuboid = category, model.stride, model.cuboid(category)
        self.faces = self.cuboid.faces
        count = len(self.cuboid.vertices)
        seen = model.seen[category, :count, None].to(model.vertex_features.dtype)
        self.vertex_features = torch.cat([model.vertex_features[category, :count], seen], -1)[None]

    def one_hot(self) -> Tensor:
        """[1, 1]: the only latent."""
        return self.cuboid.one_hot()

    def shape(self, latent: Tensor) -> Shape:
        """The cuboid, B times; no frames, as no view direction is taken in them."""
        return Shape(self.cuboid(latent), latent.new_empty(0, 3, 3, len(latent)))

    def seen_from(self, shape: Shape, vertices: Tensor, centre: Tensor) -> Tensor:
        """[B, V, 0]."""
        return vertices[..., :0]

    def render(self, vertices_cam: Tensor, view: Tensor | None, camera: Pinhole) -> SurfaceMap:
        """Interpolated features on the camera's grid."""
        fragments = rasterize(vertices_cam, self.faces, *camera)
        rendered = interpolate(self.vertex_features, self.faces, fragments)
        return SurfaceMap(fragments, self.vertex_features, rendered, rendered[..., :0])

    def features(self, sphere: Tensor, local_view: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features [P, d] and the share [P] of each that was learned."""
        return F.normalize(sphere[:, :-1], dim=-1), sphere[:, -1]

    def similarity(
        self, sphere: Tensor, local_view: Tensor, target: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cosine [P] with target[index], and the share [P] that was learned."""
        feature, learned = self.features(sphere, local_view)
        return (feature * target.index_select(0, index)).sum(-1), learned


def nemo_inference(config: InferConfig) -> InferConfig:
    """`config` with NeMo's variables and its loss, 1 - mean max(f . f', f . beta) + mean f . beta."""
    return replace(
        config, silhouette="hard", clutter="mean", clutter_weight=0.0, background_term=True, size_prior=0.0,
        refine_shape=False, refine_scale=False, latent_start="one-hot",
    )  # fmt: skip


class NeMoPredictor:
    """Fits photos under the category they are given with."""

    def __init__(self, model: NeMo, config: InferConfig, image_size: tuple[int, int], focal: float) -> None:
        self.model, self.config = model, nemo_inference(config)
        self.solvers = [
            Solver(VertexRenderer(model, c), self.config, image_size, focal)
            for c in range(len(model.categories))
        ]

    def __call__(self, photo: Tensor, category: Sequence[int]) -> Guess:
        """Pose and 1 - loss of uint8 photos [N, 3, H, W]."""
        photos = encode(self.model, photo, self.config)
        viewpoint, score = photos.clutter.new_zeros(len(photo), 4), photos.clutter.new_zeros(len(photo))
        for c in sorted(set(category)):
            rows = torch.tensor([i for i, own in enumerate(category) if own == c], device=photo.device)
            solution = self.solvers[c].solve(photos.select(rows))
            viewpoint[rows], score[rows] = solution.viewpoint, 1 - solution.loss
        return Guess(viewpoint=viewpoint, score=score)


METHOD = Method(
    name="nemo",
    config=NeMoConfig,
    build=lambda config, _, shapes: NeMo(config, shapes),
    predictor=NeMoPredictor,
    shapes=CUBOIDS,
)
