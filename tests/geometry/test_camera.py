"""The camera against worked examples of PASCAL3D+'s own convention."""

import math

import numpy as np
import pytest
import torch

from ntdm.geometry import camera, camera_np


def float64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# A real annotation (n02958343_2202, a car): its camera centre, and points of the object in the photo.
CAR = float64([4.652060109480217, -0.08167320766498972, -0.00031043026613093955, 5.895104611896633])
CAR_PRINCIPAL = float64([256.6990824671948, 165.54615731003275])
CAR_CENTRE = [-5.864765025, 0.354244523, -0.480937004]
CAR_POINTS = [
    ([0, 0, 0], [256.699082467, 165.546157310], 5.895104612),
    ([0.1, -0.2, 0.05], [353.336725273, 145.259259708], 6.010687337),
    ([0, -0.42, 0], [469.137076115, 166.658948817], 5.920342960),
    ([0, 0, 0.15], [256.722651098, 89.623695260], 5.907341978),
]
TURNED = float64([math.radians(30), math.radians(20), math.radians(10), 5])
TURNED_R = [
    [0.882564119, 0.440969611, -0.163175911],
    [-0.018028311, 0.378522306, 0.925416578],
    [0.46984631, -0.813797681, 0.342020143],
]


def seen(point: list[float], viewpoint: torch.Tensor, principal: torch.Tensor):
    points_cam = camera.cam_from_obj(float64([point]), viewpoint)
    xy, depth = camera.project(points_cam, float64(camera.PASCAL3D_FOCAL_PX), principal)
    return xy[0].tolist(), depth[0].item()


@pytest.mark.parametrize(("point", "xy", "depth"), CAR_POINTS)
def test_points_of_a_real_annotation(point, xy, depth):
    # The constants above carry nine digits.
    found_xy, found_depth = seen(point, CAR, CAR_PRINCIPAL)
    assert found_xy == pytest.approx(xy, abs=1e-7)
    assert found_depth == pytest.approx(depth, abs=1e-8)


def test_centre_of_a_real_annotation():
    assert camera.camera_centre(CAR).tolist() == pytest.approx(CAR_CENTRE, abs=1e-8)


def test_in_plane_rotation():
    assert torch.allclose(camera.rotation(TURNED), float64(TURNED_R), atol=1e-8)
    xy, depth = seen([0.1, -0.2, 0.05], TURNED, float64([400.0, 320.0]))
    assert xy == pytest.approx([394.91134939, 339.632589735], abs=1e-7)
    assert depth == pytest.approx(4.773154826, abs=1e-8)


def test_angle_between_two_poses():
    R = camera.rotation(float64([[1.0, 0.2, 0.1], [1.3, 0.1, 0.0]]))
    angle = torch.arccos((torch.trace(R[0].T @ R[1]) - 1) / 2)
    assert angle.item() == pytest.approx(0.344692774, abs=1e-8)


def test_rotation_is_a_rotation_and_is_inverted():
    generator = torch.Generator().manual_seed(0)
    angles = (torch.rand(1000, 3, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor(
        [12.0, 3.1, 6.2]
    )
    R = camera.rotation(angles)
    assert torch.allclose(R @ R.transpose(-1, -2), torch.eye(3).double(), atol=1e-12)
    assert torch.allclose(torch.linalg.det(R), torch.ones(1000).double(), atol=1e-12)
    back = camera.angles_from_rotation(R)
    assert torch.allclose(camera.rotation(back), R, atol=1e-9)
    assert (back[:, 0] >= 0).all() and (back[:, 0] < 2 * math.pi).all()


def test_origin_is_at_the_distance_and_on_the_principal_point():
    xy, depth = seen([0, 0, 0], TURNED, CAR_PRINCIPAL)
    assert xy == pytest.approx(CAR_PRINCIPAL.tolist())
    assert depth == pytest.approx(5)


def test_mirrored_view_mirrors_the_picture():
    point = float64([[0.1, -0.3, 0.2]])
    mirrored_point = point * float64([-1, 1, 1])
    focal, principal = float64(3000.0), torch.zeros(2).double()
    xy, _ = camera.project(camera.cam_from_obj(point, TURNED), focal, principal)
    other = camera.cam_from_obj(mirrored_point, camera.mirror_viewpoint(TURNED))
    mirrored_xy, _ = camera.project(other, focal, principal)
    assert torch.allclose(mirrored_xy, xy * float64([-1, 1]), atol=1e-8)


def test_the_numpy_twin_agrees():
    draw = np.random.default_rng(0)
    for _ in range(100):
        viewpoint = np.array([*draw.uniform(-3.2, 3.2, 3), draw.uniform(2, 30)])
        points = draw.uniform(-0.5, 0.5, (20, 3)).astype(np.float32)
        principal = draw.uniform(-100, 700, 2)
        there = camera_np.cam_from_obj(points, viewpoint)
        torch_there = camera.cam_from_obj(torch.from_numpy(points).double(), torch.from_numpy(viewpoint))
        # Rounding alone: 2e-15 measured for distances to 10.
        np.testing.assert_allclose(there, torch_there.numpy(), atol=1e-14)
        xy, _ = camera.project(torch_there, torch.tensor(3000.0).double(), torch.from_numpy(principal))
        np.testing.assert_allclose(camera_np.project(there, 3000.0, principal), xy.numpy(), atol=1e-9)


def test_viewpoints_at_stand_in_the_direction():
    directions = np.random.default_rng(0).standard_normal((9, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    viewpoints = camera.viewpoints_at(directions, 3.0)
    np.testing.assert_allclose(camera.camera_centre(viewpoints), 3 * directions, atol=1e-5)
    assert (viewpoints[:, 2] == 0).all()
