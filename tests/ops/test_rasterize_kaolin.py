"""The Kaolin backend against the native operators: with a stand-in, and with Kaolin where it runs."""

import math
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

import fake_kaolin
from ntdm.geometry import camera, mesh
from ntdm.ops import rasterize_kaolin
from ntdm.ops.rasterize import rasterize
from ntdm.ops.soft_silhouette import soft_silhouette
from ntdm.shapes import nearest_faces

Scene = tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]


@pytest.fixture(params=["stand-in", pytest.param("kaolin", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where Kaolin runs: on the CPU a stand-in, on CUDA itself."""
    rasterize_kaolin.missing.cache_clear()
    if request.param == "stand-in":
        fake_kaolin.install(monkeypatch, "kaolin.render.mesh")
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    elif reason := rasterize_kaolin.missing():
        pytest.skip(f"Kaolin: {reason}")
    yield "cpu" if request.param == "stand-in" else "cuda"
    rasterize_kaolin.missing.cache_clear()


def scene(device: str, size: tuple[int, int] = (11, 16), dtype: torch.dtype = torch.float64) -> Scene:
    """Two ellipsoids off the middle of a map that is not square, one of them partly outside."""
    sphere = mesh.icosphere(1)
    scaled = sphere.vertices.to(dtype) * torch.tensor([0.6, 0.35, 0.5], dtype=dtype)
    viewpoint = torch.tensor([[0.3, 0.4, 0.2, 4.0], [2.1, -0.2, 0.5, 3.5]], dtype=dtype)
    vertices = camera.cam_from_obj(scaled.expand(2, -1, -1), viewpoint)
    focal = torch.tensor([31.0, 40.0], dtype=dtype)
    centre = torch.tensor([[size[1] / 2 - 2.3, size[0] / 2 + 0.7], [6.1, 2.2]], dtype=dtype)
    return vertices.to(device), sphere.faces.to(device), focal.to(device), centre.to(device), size


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


# Float32 as Kaolin rounds it decides which of two faces owns a centre next to their edge: the stand-in agrees
# on every pixel of these scenes, Kaolin is allowed one in a hundred.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_fragments_and_gradients_are_the_native_ones(device, dtype, tolerance):
    vertices, faces, focal, centre, size = scene(device, dtype=dtype)
    results = []
    for backend in ("native", "kaolin"):
        inputs = leaves(vertices, focal, centre)
        v, f, c = inputs
        if backend == "native":
            fragments = rasterize(v, faces, f, c, size, backend="native")
        else:
            index, barycentric, depth, dropped = rasterize_kaolin.rasterize(v, faces, f, c, size)
            fragments = fragments._replace(
                face_index=index, barycentric=barycentric, depth=depth, dropped=dropped
            )
        results.append((fragments, inputs))
    native, kaolin = results[0][0], results[1][0]
    same = native.face_index == kaolin.face_index
    assert same.all() if device == "cpu" else same.double().mean() > 0.99
    assert torch.equal(native.dropped, kaolin.dropped)
    gradients = []
    for fragments, inputs in results:
        covered = same & (fragments.face_index >= 0)
        weight = torch.linspace(-1, 1, fragments.barycentric.numel(), dtype=dtype, device=device)
        weight = weight.view(fragments.barycentric.shape).cos()
        loss = (fragments.barycentric * weight)[covered].sum() + fragments.depth[covered].square().sum()
        gradients.append(torch.autograd.grad(loss, inputs))
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(kaolin.barycentric[same], native.barycentric[same], **close)
    torch.testing.assert_close(kaolin.depth[same], native.depth[same], **close)
    for ours, theirs in zip(*gradients, strict=True):
        scale = ours.abs().max()
        torch.testing.assert_close(theirs / scale, ours / scale, rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_the_soft_mask_is_the_native_one(device, sigma):
    vertices, faces, focal, centre, size = scene(device)
    fragments = rasterize(vertices, faces, focal, centre, size, backend="native")
    masks, gradients = [], []
    for backend in ("native", "kaolin"):
        (v,) = leaves(vertices)
        if backend == "native":
            soft = soft_silhouette(v, faces, focal, centre, fragments, sigma).soft
        else:
            soft = rasterize_kaolin.soft_mask(v, faces, focal, centre, fragments.face_index, sigma, 3 * sigma)
        masks.append(soft.detach())
        gradients.append(torch.autograd.grad(soft.sum(), v)[0])
    # A face's box reaches further than its distance of 3 sigma: there each adds exp(-9) at most.
    extra = masks[1] - masks[0]
    assert extra.min() > -1e-6 and extra.max() < 40 * math.exp(-9)
    assert (gradients[0] - gradients[1]).abs().max() < 0.02 * gradients[0].abs().max()


def test_the_list_of_near_faces_is_long_enough(device):
    # 80 faces behind each other: the default list of 30 would leave 50 out.
    corner = torch.tensor([[-0.5, -0.5, -2.0], [0.5, -0.5, -2.0], [0.0, 0.5, -2.0]], dtype=torch.float64)
    vertices = corner.repeat(80, 1)[None].to(device)
    faces = torch.arange(240, device=device).view(80, 3)
    focal, centre = (
        torch.full((1,), 8.0, device=device).double(),
        torch.full((1, 2), 6.0, device=device).double(),
    )
    fragments = rasterize(vertices, faces, focal, centre, (12, 12), backend="native")
    mesh_of_one = (vertices, faces, focal, centre)
    native = soft_silhouette(*mesh_of_one, fragments).soft
    ours = rasterize_kaolin.soft_mask(*mesh_of_one, fragments.face_index, 1.0, 3.0)
    assert (ours - native).abs().max() < 80 * math.exp(-9)


def test_unusable_degenerate_and_huge_faces(device):
    vertices, faces, focal, centre, size = scene(device, dtype=torch.float32)
    spoilt = vertices.clone()
    spoilt[0, 3] = math.nan
    spoilt[0, 5, 2] = 0.5  # behind the camera
    spoilt[1, :, 2] = 1.0  # nothing of the second item is left
    lines = torch.cat([faces, torch.tensor([[0, 0, 1], [2, 2, 2]], device=device)])
    native = rasterize(spoilt, lines, focal, centre, size, backend="native")
    (v,) = leaves(spoilt)
    index, barycentric, depth, dropped = rasterize_kaolin.rasterize(v, lines, focal, centre, size)
    assert (index == native.face_index).double().mean() > 0.99
    assert torch.equal(dropped, native.dropped)
    (barycentric.square().sum() + depth[index >= 0].sum()).backward()
    assert v.grad is not None and v.grad.isfinite().all()
    huge = torch.tensor([[[-1e7, -1e6, -1.0], [1e7, -1e6, -1], [0, 1e7, -1]]], device=device)
    one, zero = torch.ones(1, device=device), torch.zeros(1, 2, device=device)
    index, barycentric, *_ = rasterize_kaolin.rasterize(
        huge, torch.tensor([[0, 1, 2]], device=device), one, zero, size
    )
    assert (index == 0).all()
    torch.testing.assert_close(barycentric.sum(-1), torch.ones(1, *size, device=device))


def test_nothing_to_draw(device):
    vertices, faces, focal, centre, size = scene(device)
    for arguments in (
        (vertices[:0], faces, focal[:0], centre[:0], size),
        (vertices, faces[:0], focal, centre, size),
        (vertices, faces, focal, centre, (0, 4)),
        (-vertices, faces, focal, centre, size),
    ):
        index, barycentric, depth, dropped = rasterize_kaolin.rasterize(*arguments)
        assert (index == -1).all() and index.shape == (len(arguments[0]), *arguments[4])
        assert not barycentric.any() and (depth == math.inf).all() and dropped.shape == index.shape[:1]
        soft = rasterize_kaolin.soft_mask(*arguments[:4], index, 1.0, 3.0)
        assert soft.shape == index.shape and not soft.any()


def test_asked_for_where_it_cannot_run(monkeypatch):
    vertices, faces, focal, centre, size = scene("cpu")
    with pytest.raises(ValueError, match="backend must be one of"):
        rasterize(vertices, faces, focal, centre, size, backend="other")
    monkeypatch.setattr(rasterize_kaolin, "missing", lambda: "No module named 'kaolin'")
    with pytest.raises(ValueError, match="backend kaolin cannot be used here: No module named 'kaolin'"):
        rasterize(vertices, faces, focal, centre, size, backend="kaolin")
    monkeypatch.setattr(rasterize_kaolin, "missing", lambda: None)
    with pytest.raises(ValueError, match="backend kaolin wants CUDA tensors"):
        rasterize(vertices, faces, focal, centre, size, backend="kaolin")


@pytest.mark.parametrize("reason", [None, "No module named 'kaolin'"])
def test_it_is_the_default_on_cuda_where_it_imports(monkeypatch, reason):
    monkeypatch.setattr(rasterize_kaolin, "missing", lambda: reason)
    on_cuda, on_cpu = SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)
    assert rasterize_kaolin.is_chosen("rasterize", "auto", on_cuda) == (reason is None)
    assert not rasterize_kaolin.is_chosen("rasterize", "auto", on_cpu)
    assert not rasterize_kaolin.is_chosen("rasterize", "native", on_cuda)


def test_the_placeholder_of_the_package_index_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaolin", ModuleType("kaolin"))  # imports, and holds nothing
    rasterize_kaolin.missing.cache_clear()
    with pytest.warns(UserWarning, match="Kaolin is installed but cannot be used: No module named"):
        assert rasterize_kaolin.missing() is not None
    rasterize_kaolin.missing.cache_clear()


@pytest.fixture
def no_kaolin() -> Iterator[None]:
    """Nothing of Kaolin is imported or remembered; afterwards what was imported before, and no more."""

    def forget() -> dict[str, ModuleType]:
        rasterize_kaolin.missing.cache_clear()
        nearest_faces.missing.cache_clear()
        names = [name for name in sys.modules if name.split(".")[0] == "kaolin"]
        return {name: sys.modules.pop(name) for name in names}

    before = forget()
    yield
    forget()
    sys.modules.update(before)


@pytest.mark.usefixtures("no_kaolin")
@pytest.mark.parametrize("missing", [rasterize_kaolin.missing, nearest_faces.missing])
def test_whatever_ends_its_import_is_a_reason_with_its_chain(tmp_path, monkeypatch, missing):
    """Kaolin imports warp, usd and numpy code, which end by any exception."""
    for name in ("render", "metrics"):
        (tmp_path / "kaolin" / name).mkdir(parents=True)
        (tmp_path / "kaolin" / name / "__init__.py").write_text(
            "try:\n    import numpy; numpy.no_such_type\nexcept AttributeError as error:\n"
            "    raise TypeError('warp wants\\nnumpy 1') from error\n"
        )
    (tmp_path / "kaolin" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reason, again = missing(), missing()
    assert reason == again and reason.startswith("TypeError: warp wants, from AttributeError: ")
    assert "no_such_type" in reason and "\n" not in reason
    if missing is rasterize_kaolin.missing:  # the native operator takes its place: that is said, once
        assert [str(warning.message) for warning in said] == [
            f"Kaolin is installed but cannot be used: {reason}"
        ]


@pytest.mark.usefixtures("no_kaolin")
def test_no_kaolin_at_all_is_no_warning(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rasterize_kaolin.missing() == "No module named 'kaolin'"
