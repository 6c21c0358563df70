"""Amodal masks: the rule cell by cell, wires and plates in one piece, nothing lost at the border."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from ntdm.data_prep.synthetic import models
from ntdm.geometry import camera
from ntdm.ops.amodal_mask import CELLS, amodal_mask

FOCAL, CENTRE = 600.0, np.array([32.0, 24.0])
SIZE = (48, 64)
AHEAD = np.array([0.0, 0.0, 0.0, 5.0])  # from the front: x is right, z is up, a unit is 120 pixels


def built_in(category: str) -> tuple[np.ndarray, np.ndarray]:
    model = models.models(category).cads[1]
    return model.vertices.astype(np.float32), model.faces.astype(np.int32)


def by_hand(cad, viewpoint: np.ndarray, size: tuple[int, int], centre: np.ndarray) -> np.ndarray:
    """The rule of cuda/amodal_mask.cpp, face by face, for every cell of the crop."""
    vertices, faces = torch.from_numpy(cad[0]).double(), cad[1]
    focal = torch.tensor(FOCAL * CELLS, dtype=torch.float64)
    xy, _ = camera.project(
        camera.cam_from_obj(vertices, torch.from_numpy(viewpoint)), focal, torch.from_numpy(centre * CELLS)
    )
    rows, columns = np.mgrid[: size[0] * CELLS, : size[1] * CELLS] + 0.5
    cells, reach = np.zeros(rows.shape, bool), 1 / 3
    for corners in xy.numpy()[faces]:
        (left, top), (right, bottom) = corners.min(0) - reach, corners.max(0) + reach
        near = (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
        (ax, ay), (bx, by), (cx, cy) = corners
        turn = 1 if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) >= 0 else -1
        for (px, py), (qx, qy) in zip(corners, np.roll(corners, -1, 0), strict=True):
            length = math.hypot(qx - px, qy - py)
            if length > 0:
                inwards = turn * ((qx - px) * (rows - py) - (qy - py) * (columns - px)) / length
                near &= inwards >= -reach * (abs(qx - px) + abs(qy - py)) / length
        cells |= near
    return cells.reshape(size[0], CELLS, size[1], CELLS).mean((1, 3)) >= 0.5


@pytest.mark.parametrize("distance", [3.0, 9.0])  # cut by the border, whole
@pytest.mark.parametrize("category", ["motorbike", "sofa"])
def test_the_kernel_follows_the_rule(category, distance):
    cad = built_in(category)
    for azimuth in (20, 190):
        viewpoint = np.array([math.radians(azimuth), 0.3, 0.1, distance])
        mask = amodal_mask(cad, viewpoint, FOCAL, CENTRE, SIZE)
        np.testing.assert_array_equal(mask, by_hand(cad, viewpoint, SIZE, CENTRE))
        assert mask.any() and (distance < 5 or not mask.all())


def plate(width: float, height: float, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A plate in the plane y = 0 around the origin, sides in pixels seen from AHEAD."""
    x, z = width / 240, height / 240
    corners = np.array([[-x, 0, -z], [x, 0, -z], [x, 0, z], [-x, 0, z]])
    c, s = math.cos(turn), math.sin(turn)
    return (corners @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])).astype(np.float32), np.array(
        [[0, 1, 2], [0, 2, 3]], np.int32
    )


@pytest.mark.parametrize(
    ("width", "columns"),
    [(20, (22, 42)), (20.5, (22, 42)), (20.7, (21, 43)), (22, (21, 43))],  # it spans 32 +- width / 2
)
def test_an_upright_outline_lies_two_tenths_of_a_pixel_further_out(width, columns):
    # A pixel belongs to the object when 0.5 - 0.125 - 0.25 / 3 = 0.29 of it are covered.
    expected = np.zeros(SIZE, bool)
    expected[19:29, slice(*columns)] = True
    np.testing.assert_array_equal(amodal_mask(plate(width, 10), AHEAD, FOCAL, CENTRE, SIZE), expected)


@pytest.mark.parametrize("turn", np.deg2rad([0, 20, 45, 70]))
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5])
def test_a_wire_thinner_than_a_pixel_stays_in_one_piece(turn, shift):
    mask = amodal_mask(plate(40, 0.9, turn), AHEAD, FOCAL, CENTRE + shift, SIZE)
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert 38 * max(math.cos(turn), math.sin(turn)) < mask.sum() < 85


def test_a_plate_edge_on_is_a_line_of_cells_and_no_pixel_by_itself():
    vertices, faces = plate(40, 0.0)
    assert not amodal_mask((vertices, faces), AHEAD, FOCAL, CENTRE + 0.3, SIZE).any()
    beside = vertices + np.float32([0, 0, 0.5 / 120])  # two lines, half a pixel apart
    both = np.concatenate([vertices, beside]), np.concatenate([faces, faces + 4])
    mask = amodal_mask(both, AHEAD, FOCAL, CENTRE + np.array([0.0, 0.8]), SIZE)
    assert mask.any(0).sum() == 40 and mask.sum() == 40


def test_behind_the_camera_and_beside_the_crop_there_is_nothing():
    vertices, faces = built_in("car")
    behind = np.array([0.0, 0.0, 0.0, -5.0])
    assert not amodal_mask((vertices, faces), behind, FOCAL, CENTRE, SIZE).any()
    aside = vertices + np.float32([3, 0, 0])
    assert not amodal_mask((aside, faces), AHEAD, FOCAL, CENTRE, SIZE).any()


def test_a_face_of_a_vertex_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="faces name vertex 7, but there are 4 vertices"):
        amodal_mask((plate(9, 9)[0], np.array([[0, 1, 7]], np.int32)), AHEAD, FOCAL, CENTRE, SIZE)
