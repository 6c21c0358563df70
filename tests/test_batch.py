"""Training batches: what is mirrored, and what jitter leaves alone."""

from dataclasses import replace

import pytest
import torch

from ntdm.batch import jitter_colours, make_batch, patch_photos
from ntdm.cache import find
from ntdm.camera import cam_from_obj
from ntdm.mesh import icosphere
from ntdm.rasterize import coverage
from ntdm.sample_dataset import SampleDataset


@pytest.fixture(scope="module")
def items(tiny_folder):
    data = SampleDataset(find(tiny_folder / "cache", "pascal3d/train"))
    return [data[i] | {"principal_point": torch.tensor([30.0, 34.0])} for i in range(8)]


def make(items, config):
    return make_batch(items, ["car", "sofa"], [2, 1], config, torch.Generator().manual_seed(0))


def test_plain_batch_holds_the_samples(tiny, items):
    batch = make(items, replace(tiny.TRAIN, mirror=False))
    assert batch.category == [0] * 6 + [1] * 2
    assert [len(z) for z in batch.latent] == [2] * 6 + [1] * 2
    for i, item in enumerate(items):
        assert torch.equal(batch.photo[i], item["image"])
        assert torch.equal(batch.amodal_mask[i], item["amodal_mask"])
        for name in ("viewpoint", "focal", "principal_point"):
            assert torch.equal(getattr(batch, name)[i], item[name])


def test_some_samples_are_mirrored_with_their_camera(tiny, items):
    before, after = make(items, replace(tiny.TRAIN, mirror=False)), make(items, tiny.TRAIN)
    mirrored = [i for i in range(8) if not torch.equal(after.photo[i], before.photo[i])]
    assert 0 < len(mirrored) < 8
    sphere = icosphere(3)
    for i in range(8):
        if i not in mirrored:
            assert torch.equal(after.viewpoint[i], before.viewpoint[i])
            assert torch.equal(after.principal_point[i], before.principal_point[i])
            continue
        assert torch.equal(after.photo[i], before.photo[i].flip(-1))
        assert torch.equal(after.amodal_mask[i], before.amodal_mask[i].flip(-1))
        # The symmetric object under the mirrored camera is the mirrored picture.
        vertices = sphere.vertices * torch.tensor([0.2, 0.4, 0.15])
        shown, flipped = (
            coverage(
                cam_from_obj(vertices, b.viewpoint[i]),
                sphere.faces,
                b.focal[i],
                b.principal_point[i],
                (64, 64),
            )
            for b in (before, after)
        )
        assert (shown.flip(-1) != flipped).sum() <= 2  # centres that fall on an edge


def test_no_latents_for_methods_without_shapes(tiny, items):
    bare = [{k: v for k, v in item.items() if k != "latent"} for item in items]
    batch = make_batch(bare, ["car", "sofa"], [], tiny.TRAIN, torch.Generator().manual_seed(0))
    assert batch.latent == []


def test_colour_jitter():
    photo = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    unchanged = jitter_colours(photo, 0.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(unchanged, photo, rtol=0, atol=0)
    strong, again = (jitter_colours(photo, 1.0, torch.Generator().manual_seed(1)) for _ in range(2))
    assert strong.dtype == torch.uint8
    assert torch.equal(strong, again)
    assert not torch.equal(strong, photo)


def test_patches_show_the_next_photo_and_are_marked():
    photo = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 40, 64)
    patched, hidden = patch_photos(photo, 1.0, torch.Generator().manual_seed(0))
    assert hidden.any((1, 2)).all() and not hidden.all((1, 2)).any()
    for i in range(6):
        assert (patched[i][:, hidden[i]] == (i + 1) % 6).all()
        assert (patched[i][:, ~hidden[i]] == i).all()


def test_no_photo_is_patched_at_share_zero(tiny, items):
    photo = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    assert not patch_photos(photo, 0.0, torch.Generator().manual_seed(0))[1].any()
    assert make(items, replace(tiny.TRAIN, patches=0.0)).hidden is None
