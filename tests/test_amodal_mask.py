"""Amodal masks by area: near the true share of each pixel, nothing lost at the border."""

import math

import numpy as np
import pytest
import torch

from ntdm import camera
from ntdm.amodal_mask import amodal_mask
from ntdm.crop import CropMap
from ntdm.data_prep import synthetic_models
from ntdm.rasterize import coverage

FOCAL = 600.0


def share(cad, viewpoint: np.ndarray, focal: float, crop: CropMap, fine: int) -> np.ndarray:
    """Covered share of each pixel, from fine x fine centres on a grid of the whole crop."""
    vertices, faces = (torch.from_numpy(array) for array in cad)
    covered = coverage(
        camera.cam_from_obj(vertices.double(), torch.from_numpy(viewpoint)),
        faces.long(),
        torch.tensor(focal * fine, dtype=torch.float64),
        torch.from_numpy(crop.principal_point) * fine,
        (crop.size[0] * fine, crop.size[1] * fine),
    )
    return covered.numpy().reshape(crop.size[0], fine, crop.size[1], fine).mean((1, 3))


@pytest.mark.parametrize("distance", [3.0, 9.0])  # cut by the border, whole
@pytest.mark.parametrize("category", ["motorbike", "sofa"])
def test_as_near_to_the_true_share_as_one_centre_a_pixel(category, distance):
    model = synthetic_models.models(category).cads[1]
    cad = (model.vertices.astype(np.float32), model.faces.astype(np.int32))
    crop = CropMap((48, 64), 1.0, (0.0, 0.0))
    ours, centres = 0.0, 0.0
    for azimuth in range(20, 360, 85):
        viewpoint = np.array([math.radians(azimuth), 0.3, 0.1, distance])
        truth = share(cad, viewpoint, FOCAL, crop, 8)
        mask = amodal_mask(cad, viewpoint, FOCAL, crop.principal_point, crop.size)
        np.testing.assert_array_equal(mask, share(cad, viewpoint, FOCAL, crop, 4) >= 0.5)
        ours += np.abs(mask - truth).sum() / truth.sum()
        centres += np.abs((share(cad, viewpoint, FOCAL, crop, 1) >= 0.5) - truth).sum() / truth.sum()
    assert 0 < ours < 1.05 * centres  # measured: 0.98 to 1.03


def test_behind_the_camera_and_beside_the_crop_there_is_nothing():
    model = synthetic_models.models("car").cads[1]
    cad = (model.vertices.astype(np.float32), model.faces.astype(np.int32))
    crop = CropMap((32, 32), 1.0, (0.0, 0.0))
    assert not amodal_mask(cad, np.array([0.0, 0.0, 0.0, -5.0]), FOCAL, crop.principal_point, crop.size).any()
    aside = (cad[0] + np.float32([3, 0, 0]), cad[1])
    assert not amodal_mask(
        aside, np.array([0.0, 0.0, 0.0, 5.0]), FOCAL, crop.principal_point, crop.size
    ).any()
