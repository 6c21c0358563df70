"""pictures.py: colours land where masks say, sheets have the size their parts need, bad input is named."""

import math

import numpy as np
import pytest

from ntdm.viz import pictures

PHOTO = np.full((40, 60, 3), 128, np.uint8)
AMODAL = np.zeros((40, 60), np.uint8)
AMODAL[10:30, 10:50] = 1
VISIBLE = AMODAL.copy()
VISIBLE[:, 30:] = 0


def test_shade() -> None:
    normals = np.array([[0, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, 5], [1, -1, 0], pictures._LIGHT])
    values = pictures.shade(normals)
    assert values[0] == 0 and values[1] == values[2] == values[3]
    assert values[4] == pytest.approx(0.3), "turned away from the light: ambient only"
    assert values[5] == pytest.approx(1)
    with pytest.raises(ValueError, match="normals have shape"):
        pictures.shade(np.zeros((3, 2)))


def test_overlay() -> None:
    before = PHOTO.copy()
    out = pictures.overlay(PHOTO, AMODAL, VISIBLE)
    assert out.dtype == np.uint8 and out.shape == PHOTO.shape
    np.testing.assert_array_equal(PHOTO, before)
    np.testing.assert_array_equal(out[:9], PHOTO[:9])
    for x, colour in ((20, pictures.VISIBLE_COLOUR), (40, pictures.OCCLUDED_COLOUR)):
        want = [round(0.4 * 128 + 0.6 * c) for c in colour]
        assert out[20, x].tolist() == want
    assert (out[10, 10:50] == 255).all() and (out[9, 10:50] == 0).all(), "outline"
    dark = pictures.overlay(PHOTO, AMODAL, VISIBLE, np.zeros((40, 60)))
    assert (dark[20, 20] < out[20, 20]).any() and (dark[20, 20] <= out[20, 20]).all()


def test_overlay_of_nothing_and_of_everything() -> None:
    np.testing.assert_array_equal(pictures.overlay(PHOTO, AMODAL * 0, VISIBLE), PHOTO)
    everything = np.ones((40, 60), bool)
    out = pictures.overlay(PHOTO, everything, everything)
    assert (out == out[0, 0]).all(), "no outline along the picture's border"


def test_mask_picture() -> None:
    out = pictures.mask_picture(AMODAL, VISIBLE)
    assert [tuple(out[20, x]) for x in (5, 20, 40)] == [
        pictures.EMPTY_COLOUR,
        pictures.VISIBLE_COLOUR,
        pictures.OCCLUDED_COLOUR,
    ]


def test_even_steps_have_both_ends() -> None:
    order = np.array([5, 3, 8, 1, 9, 2, 7])
    assert pictures.even_steps(order, 3).tolist() == [5, 1, 7]
    assert pictures.even_steps(order, 12).tolist() == order.tolist(), "each once"
    assert pictures.even_steps(order[:0], 12).tolist() == []


def test_contact_sheet() -> None:
    rows = [[PHOTO, pictures.overlay(PHOTO, AMODAL, VISIBLE), AMODAL.astype(bool)]] * 3
    captions = [pictures.describe("n0_00", "car", "bus", math.pi / 6, 0.5), "x" * 400, ""]
    one = pictures.contact_sheet(rows, captions, ("photo", "mesh", "mask"), tile=64)
    two = pictures.contact_sheet(rows, captions, ("photo", "mesh", "mask"), tile=64, across=2)
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert one.shape[0] > two.shape[0] and one.shape[1] < two.shape[1]
    bare = pictures.contact_sheet([[PHOTO]], tile=64)
    assert bare.shape[1] == 64 + 2 * 4, "no wider than tile and margins"
    assert (pictures.contact_sheet(rows, captions, tile=64)[:, -4:] == 255).all(), "long captions are cut"


def test_tiles_are_as_high_as_the_pictures_need() -> None:
    wide = pictures.contact_sheet([[PHOTO]], tile=60)
    mixed = pictures.contact_sheet([[PHOTO, PHOTO.swapaxes(0, 1)]], tile=60)
    assert mixed.shape[0] - wide.shape[0] == 60 - 40


def test_outline_leaves_the_rest_of_the_photo() -> None:
    out = pictures.outline(PHOTO, AMODAL)
    assert (out[10, 10:50] == 255).all() and (out[9, 10:50] == 0).all()
    assert (out[12:28, 12:48] == 128).all() and (out[:8] == 128).all()


def test_describe() -> None:
    assert pictures.describe("a", "car", "bus", math.pi / 6, 0.5) == (
        "a\nclass bus (is car), pose error 30.0°, IoU 50.0 %"
    )
    assert pictures.describe("a", "car", "car", None, None) == "a\nclass car"


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"image is float64 \(4, 4, 3\)"):
        pictures.overlay(np.zeros((4, 4, 3)), AMODAL, VISIBLE)
    with pytest.raises(ValueError, match="visible has shape"):
        pictures.overlay(PHOTO, AMODAL, VISIBLE[1:])
    with pytest.raises(ValueError, match="shading has shape"):
        pictures.overlay(PHOTO, AMODAL, VISIBLE, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="at least one picture"):
        pictures.contact_sheet([])
    with pytest.raises(ValueError, match="1 captions for 2 rows"):
        pictures.contact_sheet([[PHOTO], [PHOTO]], ["a"])
    with pytest.raises(ValueError, match="a picture is float64"):
        pictures.contact_sheet([[np.zeros((4, 4))]])
