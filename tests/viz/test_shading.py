"""Brightness of rendered meshes."""

import numpy as np
import pytest
import torch

from ntdm.geometry import camera, mesh
from ntdm.viz import pictures
from ntdm.viz.shading import seen_from_ahead, shading


@pytest.mark.parametrize("smooth", [True, False])
def test_a_face_towards_the_camera_has_the_brightness_of_its_normal(smooth: bool) -> None:
    cam = torch.tensor([[[-1.0, -1, -5], [1, -1, -5], [0, 1, -5]]])
    faces = torch.tensor([[0, 1, 2]])
    fragments = seen_from_ahead(cam, faces, 40.0, (24, 32))
    light = shading(cam, faces, fragments, smooth)
    inside = (fragments.face_index[0] >= 0).numpy()
    assert light.shape == (24, 32) and inside[12, 16] and not inside[0, 0]
    np.testing.assert_allclose(light[inside], pictures.shade(np.array([0.0, 0, 1])), rtol=1e-6)
    assert (light[~inside] == 0).all()


def test_without_smoothing_every_face_has_one_brightness() -> None:
    sphere = mesh.icosphere(1)
    cam = camera.cam_from_obj(sphere.vertices, torch.tensor([[0.3, 0.2, 0.0, 5.0]]))
    fragments = seen_from_ahead(cam, sphere.faces, 100.0, (48, 48))
    index = fragments.face_index[0].numpy()
    for smooth in (True, False):
        light = shading(cam, sphere.faces, fragments, smooth)
        counts = [len(np.unique(light[index == face].round(9))) for face in np.unique(index[index >= 0])]
        assert (max(counts) == 1) == (not smooth)
