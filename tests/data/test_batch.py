"""Training batches: what is mirrored, and what jitter leaves alone."""

from dataclasses import replace

import pytest
import torch

from ntdm.data.augment import Augmentation, covered, draw_augmentation, jitter_colours
from ntdm.data.batch import make_batch
from ntdm.data.dataset import SampleDataset
from ntdm.data.loader import Batches
from ntdm.geometry.camera import cam_from_obj
from ntdm.geometry.mesh import icosphere
from ntdm.io.cache_split import find
from ntdm.ops.rasterize import coverage


@pytest.fixture(scope="module")
def items(tiny_folder):
    data = SampleDataset(find(tiny_folder / "cache", "pascal3d/train"))
    return [data[i] | {"principal_point": torch.tensor([30.0, 34.0])} for i in range(8)]


def make(items, config):
    drawn = draw_augmentation(len(items), config, torch.Generator().manual_seed(0))
    return make_batch(items, ["car", "sofa"], [2, 1], config, drawn)


def test_plain_batch_holds_the_samples(tiny, items):
    batch = make(items, replace(tiny.TRAIN, mirror=False))
    assert batch.category == [0] * 6 + [1] * 2
    assert [len(z) for z in batch.latent] == [2] * 6 + [1] * 2
    for i, item in enumerate(items):
        assert torch.equal(batch.photo[i], item["image"])
        assert torch.equal(batch.background[i], ~item["amodal_mask"])
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
        assert torch.equal(after.background[i], before.background[i].flip(-1))
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
    batch = make_batch(bare, ["car", "sofa"], [], tiny.TRAIN, [Augmentation(False)] * len(bare))
    assert batch.latent == []


def test_colour_jitter():
    photo = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    drawn = tuple(torch.full(shape, 0.5) for shape in ((1,), (3,), (1,), (3, 3)))
    torch.testing.assert_close(jitter_colours(photo, 0.0, drawn), photo, rtol=0, atol=0)
    strong, again = (jitter_colours(photo, 1.0, drawn) for _ in range(2))
    assert strong.dtype == torch.uint8
    assert torch.equal(strong, again)
    assert not torch.equal(strong, photo)


def test_moved_photos_are_what_the_moved_cameras_see(tiny, items):
    sphere = icosphere(3)
    vertices = sphere.vertices * torch.tensor([0.1, 0.35, 0.15]) + torch.tensor([0.05, 0.02, 0.03])

    def seen(viewpoint, focal, point):
        return coverage(cam_from_obj(vertices, viewpoint), sphere.faces, focal, point, (64, 64))

    shown = []
    for item in items:
        mask = seen(item["viewpoint"], item["focal"], item["principal_point"])
        shown.append(item | {"amodal_mask": mask, "image": 255 * mask.to(torch.uint8).expand(3, -1, -1)})
    plain = replace(tiny.TRAIN, mirror=False, augment=0.0, patches=0.0)
    for change in ({"turn": 40.0}, {"zoom": 0.3}, {"shift": 0.2}, {"turn": 25.0, "zoom": 0.2, "shift": 0.1}):
        before, after = make(shown, plain), make(shown, replace(plain, **change))
        changed = 0
        for i in range(8):
            expected = seen(after.viewpoint[i], after.focal[i], after.principal_point[i]) & ~after.hidden[i]
            rim = expected.sum().sqrt()  # pixels at the outline change, as both pictures are sampled
            assert (after.amodal_mask[i] != expected).sum() <= 2.5 * rim, change
            assert ((after.photo[i, 0] > 127) & ~after.hidden[i] != expected).sum() <= 2.5 * rim, change
            assert torch.equal(after.background[i], ~after.amodal_mask[i] & ~after.hidden[i])
            changed += int((before.amodal_mask[i] != expected).sum() > 3 * rim)
        assert changed >= 5, change


def test_patches_show_the_next_photo(tiny, items):
    plain = replace(tiny.TRAIN, mirror=False, augment=0.0, patches=0.0)
    before, after = make(items, plain), make(items, replace(plain, patches=1.0))
    hidden = after.hidden
    assert before.hidden is None and hidden.any()
    for i in range(8):
        other = before.photo[(i + 1) % 8]
        assert torch.equal(after.photo[i], torch.where(hidden[i], other, before.photo[i]))
        # What a patch shows is background where it is in the photo it is from.
        free = torch.where(hidden[i], before.background[(i + 1) % 8], before.background[i])
        assert torch.equal(after.background[i], free)


def test_a_part_of_a_batch_is_what_the_whole_has_there(tiny, items):
    config = replace(tiny.TRAIN, augment=0.4, patches=0.8, turn=15.0)
    drawn = draw_augmentation(8, config, torch.Generator().manual_seed(0))
    whole = make_batch(items, ["car", "sofa"], [2, 1], config, drawn)
    part = make_batch(items[2:6], ["car", "sofa"], [2, 1], config, drawn[2:6])
    # The last one's patches show the next sample's photo, which the part lacks.
    for name in ("photo", "background", "viewpoint", "principal_point", "hidden", "amodal_mask"):
        assert torch.equal(getattr(whole, name)[2:5], getattr(part, name)[:3]), name


def test_patches_cover_a_share_of_the_photos_and_part_of_each(tiny):
    def hidden(share, lengths):
        config = replace(tiny.TRAIN, mirror=False, augment=0.0, patches=share)
        drawn = draw_augmentation(200, config, torch.Generator().manual_seed(0))
        return torch.stack([covered((64, 96), photo.patches, lengths) for photo in drawn])

    share = hidden(0.5, (0.2, 0.6)).flatten(1).float().mean(1)
    assert 70 < (share > 0).sum() < 130
    assert 0.15 < share[share > 0].mean() < 0.45
    assert share.max() < 1
    assert hidden(0.5, (0.4, 0.8)).float().mean() > 1.5 * share.mean()
    assert not hidden(0.0, (0.2, 0.6)).any()


def test_batches_made_ahead_are_those_made_in_time(tiny, tiny_folder):
    data = SampleDataset(find(tiny_folder / "cache", "pascal3d/train"))
    config = replace(tiny.TRAIN, batch_size=4, turn=10.0, patches=0.5)
    ways = [Batches(data, ["car", "sofa"], [2, 1], config, "cpu", way) for way in (True, False)]
    ahead, in_time = (list(batches.steps(range(1, 7))) for batches in ways)
    assert [step.number for step in ahead] == list(range(1, 7))
    for one, other in zip(ahead, in_time, strict=True):
        assert one.samples == other.samples and len(one.samples) == 4
        assert torch.equal(one.generator.get_state(), other.generator.get_state())
        for a, b in zip(one.batch, other.batch, strict=True):
            if torch.is_tensor(a):
                assert torch.equal(a, b)
    per_epoch = ways[0].per_epoch
    for epoch in {number // per_epoch for number in range(1, 7)}:
        drawn = [i for step in in_time if step.number // per_epoch == epoch for i in step.samples]
        assert len(set(drawn)) == len(drawn)  # each photo once at most


def test_a_batch_that_cannot_be_made_ahead_is_an_error_in_its_turn(tiny, tiny_folder, monkeypatch):
    data = SampleDataset(find(tiny_folder / "cache", "pascal3d/train"))
    batches = Batches(data, ["car", "sofa"], [2, 1], replace(tiny.TRAIN, batch_size=4), "cpu", True)
    broken = set(next(batches.steps([2])).samples) - set(next(batches.steps([0])).samples)
    read = SampleDataset.__getitem__

    def fails(self, index):
        if index in broken:
            raise ValueError("cannot be read")
        return read(self, index)

    monkeypatch.setattr(SampleDataset, "__getitem__", fails)
    steps = batches.steps([0, 2, 0])
    assert next(steps).number == 0
    with pytest.raises(ValueError, match="cannot be read"):
        next(steps)
