"""MT Mask R-CNN: what it learns, what it predicts, and the sentence where torchvision is missing."""

import builtins
import json

import pytest
import torch

import torchvision_operators
from ntdm import evaluate, train
from ntdm.config.reading import to_dict
from ntdm.data.batch import Batch
from ntdm.io.error_table import ERROR_COLUMNS, OPTIONAL_ERROR_COLUMNS, read_errors
from ntdm.io.table import KEY_COLUMNS
from ntdm.methods import mask_rcnn
from ntdm.methods.load import load


@pytest.fixture(scope="module")
def torchvision():
    """torchvision, with its operators in plain torch where its own do not fit this torch."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        torchvision_operators.install()


def scenes(count: int = 4, seed: int = 0) -> Batch:
    """Bright boxes on noise: wide ones of class 0 from the front, high ones of class 1 from behind."""
    generator = torch.Generator().manual_seed(seed)
    photo = torch.randint(0, 80, (count, 3, 64, 64), generator=generator).to(torch.uint8)
    mask = torch.zeros(count, 64, 64, dtype=torch.bool)
    viewpoint = torch.zeros(count, 4)
    for i in range(count):
        x, y = (16 + torch.randint(0, 8, (2,), generator=generator)).tolist()
        width, height = (32, 16) if i % 2 == 0 else (16, 32)
        mask[i, y : y + height, x : x + width] = True
        photo[i, i % 2, y : y + height, x : x + width] = 250
        viewpoint[i, 0] = 0.2 if i % 2 == 0 else 3.3
    return Batch(
        photo=photo, background=~mask, amodal_mask=mask, viewpoint=viewpoint, focal=torch.ones(count),
        principal_point=torch.full((count, 2), 32.0), category=[i % 2 for i in range(count)], latent=[],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny, torchvision) -> tuple[mask_rcnn.MaskRCNN, list[float]]:
    torch.manual_seed(0)
    model = mask_rcnn.MaskRCNN(tiny.training("mask-rcnn"), ["car", "sofa"])
    optimiser, losses = torch.optim.Adam(model.parameters(), 2e-3), []
    for step in range(30):
        loss, figures = model.training_loss(scenes(), torch.Generator().manual_seed(step))
        assert set(figures) == {"loss", "objectness", "rpn_box_reg", "class", "box", "mask", "pose"}
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    return model.requires_grad_(False).eval(), losses


def test_it_learns_a_batch_by_heart(trained):
    model, losses = trained
    assert losses[-1] < 0.3 * losses[0]
    photos = scenes()
    guess = model.predict(photos.photo, photos.category)
    assert guess.category.tolist() == photos.category
    assert (guess.score > 0.5).all()
    assert (guess.viewpoint[:, 0] - photos.viewpoint[:, 0]).abs().max() < 0.2
    shared = (guess.amodal & photos.amodal_mask).sum((1, 2)) / (guess.amodal | photos.amodal_mask).sum((1, 2))
    assert shared.min() > 0.6
    assert guess.visible is None


def test_the_true_class_and_the_likeliest_are_told_apart(trained):
    model, _ = trained
    photos = scenes()
    right, wrong = model.predict(photos.photo, [0, 1, 0, 1]), model.predict(photos.photo, [1, 0, 1, 0])
    assert torch.equal(right.amodal, right.amodal_free)
    for field in ("category", "score", "amodal_free", "free_viewpoint"):
        assert torch.equal(getattr(right, field), getattr(wrong, field))
    assert not torch.equal(wrong.amodal, wrong.amodal_free)


def test_a_step_draws_from_its_generator_alone(tiny, torchvision):
    torch.manual_seed(0)
    model = mask_rcnn.MaskRCNN(tiny.training("mask-rcnn"), ["car", "sofa"])
    found = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        found.append(model.training_loss(scenes(), torch.Generator().manual_seed(7))[0].item())
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_an_empty_mask_is_refused(tiny, torchvision):
    model = mask_rcnn.MaskRCNN(tiny.training("mask-rcnn"), ["car", "sofa"])
    photos = scenes()
    photos.amodal_mask[2] = False
    with pytest.raises(ValueError, match=r"empty amodal mask: .* train on caches whose samples have CADs"):
        model.training_loss(photos, torch.Generator())


def test_trained_loaded_and_scored(tiny, tiny_folder, tmp_path, torchvision):
    settings = tiny.training("mask-rcnn", epochs=2)
    run = train.run(settings, tiny_folder / "cache", tmp_path / "no shapes", tmp_path / "run")
    model, description = load(run)
    assert isinstance(model, mask_rcnn.MaskRCNN) and description["method"] == "mask-rcnn"
    (path,) = evaluate.run(run, tiny_folder / "cache", ["occluded_pascal3d/L1"], tiny.INFER)
    errors = read_errors(path)
    measured = {c for c in (*ERROR_COLUMNS, *OPTIONAL_ERROR_COLUMNS) if errors.measured(c)}
    assert measured - set(KEY_COLUMNS) == {
        "rotation_error", "rotation_error_free", "amodal_iou", "amodal_iou_free", "class_correct", "seconds",
    }  # fmt: skip


@pytest.mark.parametrize("aligned", [False, True])
def test_the_stand_ins_are_torchvisions_operators(torchvision, aligned):
    """Boxes, values and gradients; a box beyond the picture, which no proposal is, is not asked for."""
    from torchvision import extension, ops

    if not extension._has_ops():
        pytest.skip("torchvision's own operators do not fit this torch")
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 13, 17, generator=draw, requires_grad=True)
    low = torch.rand(40, 2, generator=draw) * torch.tensor([100.0, 70.0])
    high = torch.minimum(low + 60 * torch.rand(40, 2, generator=draw), torch.tensor([136.0, 104.0]))
    boxes = torch.cat([low, high], 1)
    rois = torch.cat([torch.arange(40)[:, None] % 3, boxes], 1)
    found = torchvision_operators.roi_align(features, rois, 1 / 8, 7, 14, 2, aligned)
    wanted = ops.roi_align(features, rois, (7, 14), 1 / 8, 2, aligned)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)  # 3e-6 seen
    weight = torch.randn(found.shape, generator=draw)
    gradients = [torch.autograd.grad((each * weight).sum(), features)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=0)
    score = torch.rand(40, generator=draw)
    kept = torchvision_operators.nms(boxes, score, 0.3)
    assert torch.equal(kept, ops.nms(boxes, score, 0.3)) and len(kept) < 40


def test_boxes_are_cut_to_the_picture():
    boxes = torch.tensor([[-5.0, 3.0, 20.0, 70.0], [90.0, 10.0, 95.0, 12.0]])
    assert mask_rcnn._clipped(boxes, (64, 48)).tolist() == [[0, 3, 20, 64], [47, 10, 48, 12]]


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'torchvision'"),
        RuntimeError("operator torchvision::nms does not exist"),
    ],
)
def test_without_torchvision_one_sentence(tiny, tmp_path, monkeypatch, error):
    whole = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("torchvision"):
            raise error
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    said = (
        r"^method mask-rcnn needs torchvision, .*install the torchvision that was built for torch [\d.+a-z]+$"
    )
    with pytest.raises(ValueError, match=said):
        mask_rcnn.MaskRCNN(tiny.training("mask-rcnn"), ["car"])
    # Nor is a run made elsewhere to blame: no word of training it again.
    (tmp_path / "model.safetensors").touch()
    description = {"schema": "ntdm-run", "schema_version": 2, "method": "mask-rcnn"}
    description |= {"train": to_dict(tiny.training("mask-rcnn"))}
    description |= {"categories": ["car"], "image_size": [64, 64], "nominal_focal": 1.0, "typical_box": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(description | {"shapes": {}}))
    with pytest.raises(ValueError, match=said):
        load(tmp_path)
