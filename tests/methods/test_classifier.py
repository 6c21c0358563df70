"""The classifiers: bins by hand, their loss, and that they can learn."""

import math
from dataclasses import replace

import pytest
import torch

from ntdm.data.batch import Batch
from ntdm.methods.classifier import Classifier
from ntdm.methods.pose_bins import likeliest_angles, to_bins


@pytest.fixture
def model(tiny) -> Classifier:
    torch.manual_seed(0)
    return Classifier(replace(tiny.CLASSIFIER, pose_bins=41), ["car", "sofa"])


def batch(viewpoints: torch.Tensor) -> Batch:
    count = len(viewpoints)
    photo = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return Batch(
        photo=photo.to(torch.uint8),
        background=torch.ones(count, 32, 32, dtype=torch.bool),
        viewpoint=viewpoints,
        focal=torch.full((count,), 300.0),
        principal_point=torch.full((count, 2), 16.0),
        category=[i % 2 for i in range(count)],
        latent=[],
    )


def test_bins_by_hand():
    width = 2 * math.pi / 41
    viewpoints = torch.tensor(
        [
            [0.0, 0.0, 0.0, 5.0],  # the first azimuth, and the middle of the two others
            [1.5 * width, -math.pi / 2, -math.pi + 0.01, 5.0],
            [2 * math.pi - 0.01, math.pi / 2, math.pi - 0.01, 5.0],
            [-0.01, 3.0, math.pi + 0.01, 5.0],  # angles wrap; an elevation beyond the pole is held
        ]
    )
    assert to_bins(viewpoints, 41).tolist() == [[0, 20, 20], [1, 0, 0], [40, 40, 40], [40, 40, 0]]


def test_predicted_angles_are_the_centres_of_the_likeliest_bins(model):
    viewpoints = torch.tensor([[0.7, 0.3, -0.2, 5.0], [5.9, -0.8, 1.4, 5.0]])
    bins = to_bins(viewpoints, 41)
    angles = likeliest_angles(torch.zeros(2, 3, 41).scatter(2, bins[..., None], 5.0))
    half_bins = torch.tensor([math.pi, math.pi / 2, math.pi], dtype=torch.float64) / 41
    assert ((angles - viewpoints[:, :3]).abs() <= half_bins + 1e-6).all()
    assert torch.equal(to_bins(angles, 41), bins)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("pose-classifier", {"viewpoint", "free_viewpoint", "category", "score"}),
        ("res50-pose", {"viewpoint", "free_viewpoint"}),
        ("res50-class", {"category", "score"}),
    ],
)
def test_each_says_what_it_was_trained_for(tiny, method, says):
    torch.manual_seed(0)
    model = Classifier(tiny.training(method), ["car", "sofa"]).eval()
    guess = model.predict(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert {name for name, value in guess._asdict().items() if value is not None} == says
    _, figures = model.training_loss(batch(torch.zeros(4, 4)), torch.Generator())
    assert ("bin_accuracy" in figures) == ("viewpoint" in says)
    assert ("class_accuracy" in figures) == ("category" in says)


def test_likeliest_class_and_its_probability(model):
    model.eval()
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.5]])
    model.forward = lambda photo: (torch.zeros(2, 3, 41), logits)
    guess = model.predict(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert guess.category.tolist() == [1, 0]
    torch.testing.assert_close(guess.score, logits.softmax(-1).amax(-1))
    assert torch.equal(guess.viewpoint, guess.free_viewpoint)


def test_photos_are_resized(tiny):
    torch.manual_seed(0)
    model = Classifier(replace(tiny.CLASSIFIER, resize=64), ["car", "sofa"]).eval()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    model.predict(torch.zeros(2, 3, 32, 96, dtype=torch.uint8))
    assert sizes == [(2, 3, 64, 64)]


def test_loss_of_no_knowledge(model):
    for layer in (model.pose, model.category):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    loss, figures = model.training_loss(batch(torch.zeros(4, 4)), torch.Generator())
    assert loss.item() == pytest.approx(math.log(41) + math.log(2), abs=1e-5)
    assert figures["loss"] == pytest.approx(loss.item())
    assert figures["class_accuracy"] == 0.5  # of equal logits the first is taken: car, every second photo


def test_it_learns_a_batch_by_heart(model):
    viewpoints = torch.tensor(
        [[0.5, 0.2, 0.0, 5], [2.0, 0.6, 0.3, 5], [3.5, -0.2, -0.3, 5], [5.0, 0.0, 0.1, 5]]
    )
    known = batch(viewpoints)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss, figures = model.training_loss(known, torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert figures["class_accuracy"] == 1
