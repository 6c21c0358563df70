"""The crop: one exact resampling, and a camera that goes with it."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from ntdm.data_prep.raw.annotation import pixels_from_matlab
from ntdm.geometry import camera
from ntdm.geometry.crop import CropMap, box_distance, crop_map


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose value at a position is 2 x + 3 y: [h, w]."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (2 * x + 3 * y).astype(np.float32)


def positions(crop: CropMap) -> np.ndarray:
    """Photo positions [H, W, 2] of the crop's pixel centres."""
    y, x = np.mgrid[: crop.size[0], : crop.size[1]] + 0.5
    return (np.stack([x, y], -1) - crop.principal_point) / crop.zoom + crop.centre


@pytest.mark.parametrize("zoom", [0.31, 0.5, 1.0, 1.7, 6.0])
def test_every_pixel_shows_its_place(zoom):
    # A linear picture passes any symmetric filter unchanged, away from the border. Enlarging is exact
    # (float32, values to 540: 3e-4 was the worst seen); shrinking samples the filter at pixels, 0.05 px off.
    crop = CropMap((24, 40), zoom, (61.3, 47.8))
    at = positions(crop)
    inside = ((at > 4) & (at < [116, 96])).all(-1)
    want = at @ [2, 3]
    tolerance = 1e-3 if zoom >= 1 else 0.05 * np.hypot(2, 3)
    assert np.abs(crop.resample(ramp(100, 120)) - want)[inside].max() < tolerance
    assert inside.sum() > 100


def test_identity():
    photo = np.random.default_rng(0).integers(0, 255, (20, 31, 3)).astype(np.uint8)
    np.testing.assert_array_equal(CropMap((20, 31), 1.0, (15.5, 10.0)).resample(photo), photo)


def test_outside_is_black_and_the_border_is_sharp():
    crop = CropMap((30, 30), 2.0, (0.0, 5.0)).resample(np.full((10, 10), 100, np.uint8))
    assert (crop[:, :15] == 0).all() and np.allclose(crop[5:25, 15:], 100)
    assert (crop[:5] == 0).all() and (crop[25:] == 0).all()


def test_shrinking_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (200, 100))
    crop = CropMap((20, 20), 0.1, (100.0, 100.0)).resample(stripes)
    assert np.abs(crop - 127.5)[:, 1:-1].max() < 1e-3  # the first and last filters are cut by the border


def test_like_pillow_where_pillow_can():
    photo = np.random.default_rng(1).integers(0, 255, (90, 120)).astype(np.uint8)
    crop = CropMap((30, 40), 0.5, (60.25, 45.5)).resample(photo)
    box = (60.25 - 40, 45.5 - 30, 60.25 + 40, 45.5 + 30)
    want = Image.fromarray(photo).resize((40, 30), Image.Resampling.BILINEAR, box=box)
    assert (
        np.abs(crop - np.asarray(want, np.float32)).max() < 1.01
    )  # Pillow rounds twice, to whole grey levels


@pytest.mark.parametrize("zoom", [1e-9, 1e-3, 50.0, 1e6])
def test_memory_does_not_follow_the_zoom(zoom):
    photo = np.full((300, 400, 3), 7, np.uint8)
    tracemalloc.start()
    crop = CropMap((64, 96), zoom, (200.0, 150.0)).resample(photo)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert crop.shape == (64, 96, 3) and peak < 30e6
    assert set(np.unique(np.rint(crop))) <= {0, 7}


def test_principal_point_far_outside_the_photo():
    crop = CropMap((32, 32), 1.0, (-5000.0, 900.0)).resample(np.full((10, 10, 3), 9, np.uint8))
    assert crop.shape == (32, 32, 3) and not crop.any()


@pytest.mark.parametrize("distance", [0.4, 5.0, 23.7, 99.99])
@pytest.mark.parametrize("focal_px", [3000.0, 2000.0])
def test_both_cameras_meet(distance, focal_px):
    viewpoint = torch.tensor([0.7, 0.2, -0.1, distance]).double()
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double() * 0.4 - 0.2
    principal = pixels_from_matlab(np.array([131.2, 87.9]))
    crop = crop_map((256, 320), 0.5, distance, focal_px, principal)
    points_cam = camera.cam_from_obj(points, viewpoint)
    photo_xy, _ = camera.project(points_cam, torch.tensor(focal_px).double(), torch.from_numpy(principal))
    crop_focal = torch.tensor(focal_px * crop.zoom).double()
    crop_xy, _ = camera.project(points_cam, crop_focal, torch.from_numpy(crop.principal_point))
    np.testing.assert_allclose(crop.crop_from_photo(photo_xy.numpy()), crop_xy.numpy(), atol=1e-8)
    assert crop_focal.item() == pytest.approx(3000 * distance / 5 * 0.5)
    assert crop.principal_point.tolist() == [160, 128]


@pytest.mark.parametrize("focal_px", [3000.0, 2000.0])
def test_a_distance_that_is_none_is_given_by_the_box(focal_px):
    bbox = np.array([10.0, 20.0, 50.0, 40.0])
    distance = box_distance((100, 200), 0.3, focal_px, bbox)
    crop = crop_map((100, 200), 0.3, distance, focal_px, np.array([30.0, 30.0]))
    np.testing.assert_allclose(crop.crop_from_photo(bbox.reshape(2, 2)), [[0, 0], [200, 100]], atol=1e-9)
    assert box_distance((100, 200), 0.3, focal_px, bbox[[2, 3, 0, 1]]) == distance  # a box may be turned


def test_a_large_photo_goes_in_strips():
    photo = np.random.default_rng(0).integers(0, 255, (90, 70, 3)).astype(np.uint8)
    crop = CropMap((30, 40), 0.3, (33.0, 47.0))
    whole = crop.resample(photo)
    np.testing.assert_allclose(crop.resample(photo, window=700), whole, atol=1e-3)
    np.testing.assert_allclose(crop.resample(photo[..., 0], window=700), whole[..., 0], atol=1e-3)


def test_matlab_counts_pixels_from_one():
    # The first pixel's centre is (1, 1) there, (0.5, 0.5) here.
    assert pixels_from_matlab(np.uint8([1, 1])).tolist() == [0.5, 0.5]
