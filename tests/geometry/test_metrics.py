"""metrics.py: definitions against hand-computed values, exact where arithmetic is exact."""

import math

import numpy as np
import pytest

from ntdm.geometry import camera_np, metrics


def turn(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def test_rotation_twin_of_camera() -> None:
    torch = pytest.importorskip("torch")
    from ntdm.geometry import camera

    angles = np.random.default_rng(0).uniform(-4, 4, (50, 4))
    want = camera.rotation(torch.from_numpy(angles)).numpy()
    np.testing.assert_allclose(camera_np.rotation(angles), want, atol=1e-15)


def test_published_example() -> None:
    # Worked out with the logarithm of the published scorer
    true, pred = camera_np.rotation([[1.0, 0.2, 0.1], [1.3, 0.1, 0.0]])
    assert metrics.rotation_error(pred, true) == pytest.approx(0.344692774, abs=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, 1.0, math.pi - 1e-7, math.pi - 1e-12, math.pi])
def test_rotation_error_keeps_its_digits(angle: float) -> None:
    base = camera_np.rotation([0.0, 0.0, 0.0])
    # measured: 3e-16 absolute at both ends, where arccos gives 1e-8
    assert metrics.rotation_error(base @ turn(angle), base) == pytest.approx(angle, abs=1e-15)


def test_rotation_error_broadcasts_and_counts_failures_as_pi() -> None:
    pred = np.stack([np.eye(3), np.full((3, 3), np.nan), turn(0.5), np.full((3, 3), np.inf)])
    np.testing.assert_allclose(
        metrics.rotation_error(pred, np.eye(3)), [0, math.pi, 0.5, math.pi], atol=1e-15
    )
    failed = camera_np.rotation([np.inf, 0.0, 0.0])
    assert metrics.rotation_error(failed, np.eye(3)) == math.pi


def test_accuracy_is_strict() -> None:
    below = np.nextafter(metrics.PI_6, 0)
    assert metrics.accuracy([metrics.PI_6, below, 0.0, math.pi], metrics.PI_6) == 50.0
    assert math.isnan(metrics.accuracy([], metrics.PI_6))


def test_median_error_deg() -> None:
    assert metrics.median_error_deg(np.radians([10, 20, 40])) == pytest.approx(20)
    assert math.isnan(metrics.median_error_deg([]))


def test_iou() -> None:
    a = np.zeros((3, 2, 2), np.uint8)
    b = a.copy()
    a[1], b[1, 0] = 1, 1
    a[2, 0, 0], b[2, 1, 1] = 1, 255
    assert metrics.iou(a, b).tolist() == [1.0, 0.5, 0.0]


def test_surface_distances() -> None:
    assert metrics.chamfer_l1([0.0, 2.0], [3.0]) == 2.0
    assert metrics.f_score([0.0, 2.0], [0.5], 1.0) == pytest.approx(2 / 3)
    assert metrics.f_score([5.0], [5.0], 1.0) == 0.0


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="R_pred has shape"):
        metrics.rotation_error(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="R_true holds"):
        metrics.rotation_error(np.eye(3), np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="1 missing values"):
        metrics.accuracy([0.1, math.nan], 1.0)
    with pytest.raises(ValueError, match="masks have shapes"):
        metrics.iou(np.zeros((2, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="angles have shape"):
        camera_np.rotation([1.0, 2.0])
