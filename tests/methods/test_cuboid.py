"""NeMo's cuboid: a box by hand, the published ones, and which vertices are seen."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ntdm.geometry.camera import cam_from_obj, camera_centre
from ntdm.methods.cuboid import Cuboid, around
from ntdm.ops.rasterize import rasterize


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    numbers = path.read_text().split()[1:]
    count, faces = int(numbers[0]), int(numbers[1])
    vertices = np.array(numbers[3 : 3 + 3 * count], float).reshape(-1, 3)
    return vertices, np.array(numbers[3 + 3 * count : 3 + 3 * count + 4 * faces], int).reshape(-1, 4)[:, 1:]


def test_a_cube_by_hand():
    # A surface of 24 and 24 vertices wanted: a spacing of 1, so three ticks on every side of length 2.
    cube = Cuboid((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), 24)
    assert cube.vertices.shape == (6 * 9, 3)
    assert cube.faces.shape == (6 * 8, 3)
    assert cube.vertices[:4].tolist() == [[-1, -1, -1], [0, -1, -1], [1, -1, -1], [-1, 0, -1]]
    assert cube.faces[:2].tolist() == [[0, 1, 3], [4, 1, 3]]
    a, b, c = cube.vertices[cube.faces].unbind(1)
    areas = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    torch.testing.assert_close(areas, torch.full((48,), 0.5))
    side = (cube.vertices * cube.normals).sum(1)
    torch.testing.assert_close(side, torch.ones(54))


def test_around_leaves_outliers_out():
    points = np.random.default_rng(0).uniform([-1, -2, -3], [1, 2, 3], (2000, 3))
    points[:10] = 50.0
    box = around([points[:1000], points[1000:]], 1000, "box")
    assert box.low == pytest.approx((-1, -2, -3), abs=0.1)
    assert box.high == pytest.approx((1, 2, 3), abs=0.1)
    assert 900 < len(box.vertices) < 1200


def test_a_flat_category_is_refused():
    with pytest.raises(ValueError, match=r"frame: the box around its CADs .* want a volume"):
        around([np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])], 100, "frame")


@pytest.mark.parametrize("category", ["boat", "bus", "chair", "tvmonitor"])
def test_published_cuboids(real_data, category):
    folder = real_data / "PASCAL3D+_release1.1" / "CAD" / category
    published = real_data / "CAD_single" / category / "01.off"
    if not (folder.is_dir() and published.is_file()):
        pytest.skip(f"no {folder} or no {published}")
    cads = [read_off(path)[0] for path in sorted(folder.glob("[0-9][0-9].off"))]
    vertices, faces = read_off(published)
    cuboid = around(cads, 1000, category)
    np.testing.assert_allclose(cuboid.vertices.numpy(), vertices, atol=1e-6)
    np.testing.assert_array_equal(cuboid.faces.numpy(), faces)


def test_what_is_seen_is_what_a_rasterizer_shows():
    cuboid = Cuboid((-0.2, -0.4, -0.15), (0.2, 0.4, 0.15), 300)
    viewpoint = torch.tensor([[0.5, 0.3, 0.1, 5.0], [math.pi, -0.4, 0.0, 5.0]])
    vertices = cam_from_obj(cuboid.vertices.expand(2, -1, -1), viewpoint)
    view = (torch.full((2,), 600.0), torch.full((2, 2), 64.0), (128, 128))
    seen = cuboid.seen_from(camera_centre(viewpoint))
    for i, face in enumerate(rasterize(vertices, cuboid.faces, *view).face_index):
        shown = torch.zeros(len(cuboid.vertices), dtype=torch.bool)
        shown[cuboid.faces[face[face >= 0].unique()].flatten()] = True
        # Not the reverse: a sliver of a face may cover no pixel's centre.
        assert not (shown & ~seen[i]).any()
        assert shown.sum() > 0.9 * seen[i].sum()
