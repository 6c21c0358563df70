"""UV scatter: the kernel against hand-computed values, its torch twin, and finite differences."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ntdm.ops.uv_scatter import uv_scatter, uv_scatter_reference

F64 = torch.float64


def view_of_sphere(height: int, width: int, look: str, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """uv [1, h, w, 2] and coverage of a unit sphere seen along an axis, slightly off it."""
    y, x = torch.meshgrid(
        torch.linspace(-1.1, 1.13, height, dtype=dtype),
        torch.linspace(-1.12, 1.1, width, dtype=dtype),
        indexing="ij",
    )
    square = x * x + y * y
    front = (1 - square).clamp(min=0).sqrt()
    point = {"seam": (front, x, -y), "side": (x, -front, -y), "pole": (x, y, front)}[look]
    u = torch.atan2(point[1], point[0]) / (2 * math.pi) % 1
    v = torch.acos(point[2].clamp(-1, 1)) / math.pi
    return torch.stack([u, v], -1)[None], (square < 1)[None]


def random_sheet(batch: int, height: int, width: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    """uv of a jittered sheet that crosses the seam and folds over itself here and there."""
    generator = torch.Generator().manual_seed(seed)
    u = 0.8 + min(0.5 / width, 0.1) * torch.arange(width, dtype=dtype)
    v = 0.2 + min(0.5 / height, 0.1) * torch.arange(height, dtype=dtype)
    uv = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).repeat(batch, 1, 1, 1)
    jitter = torch.randn(uv.shape, generator=generator, dtype=dtype, device="cpu").to(uv.device)
    uv = uv + jitter * min(0.12 / width, 0.02)
    return torch.stack([uv[..., 0] % 1, uv[..., 1]], -1)


def random_features(uv: Tensor, channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*uv.shape[:3], channels, generator=generator, dtype=uv.dtype, device="cpu")
    return drawn.to(uv.device)


def assert_same_as_twin(uv: Tensor, coverage: Tensor, size: int, channels: int, tolerance: float) -> Tensor:
    """Values, weight, both gradients; bound relative to the largest (uv's gradient scales as 1 / quad)."""
    features = random_features(uv, channels)
    upstream = random_features(uv.new_empty(uv.shape[0], size, size, 1), channels, seed=1)
    results = []
    for op in (uv_scatter, uv_scatter_reference):
        leaves = [features.clone().requires_grad_(), uv.clone().requires_grad_()]
        mean, weight = op(*leaves, coverage, size)
        (mean * upstream).sum().backward()
        results.append((mean.detach(), weight, leaves[0].grad, leaves[1].grad))
    for ours, twins in zip(*results, strict=True):
        torch.testing.assert_close(
            ours, twins, rtol=tolerance, atol=tolerance * max(1.0, twins.abs().max().item())
        )
    assert torch.equal(results[0][1], results[1][1])  # a count of quads is exact
    return results[0][1]


@pytest.mark.usefixtures("device")
def test_hand_computed():
    # One quad around the texel centre (0.25, 0.25) of a 2 x 2 map: s = 1/3, t = 1/2, F = 3 s + 6 t = 4.
    uv = torch.tensor([[[[0.2, 0.2], [0.35, 0.2]], [[0.2, 0.3], [0.35, 0.3]]]], dtype=F64, requires_grad=True)
    features = torch.tensor([[[[0.0], [3.0]], [[6.0], [9.0]]]], dtype=F64, requires_grad=True)
    mean, weight = uv_scatter(features, uv, torch.ones(1, 2, 2, dtype=torch.bool), 2)
    assert weight.tolist() == [[[1, 0], [0, 0]]]
    torch.testing.assert_close(mean[0, ..., 0], torch.tensor([[4.0, 0], [0, 0]], dtype=F64))
    mean.sum().backward()
    w = torch.tensor([[1 / 3, 1 / 6], [1 / 3, 1 / 6]], dtype=F64)
    torch.testing.assert_close(features.grad[0, ..., 0], w)
    # dF/d(s, t) = (3, 6), J = diag(0.15, 0.1): dL/dU_k = -w_k (20, 60).
    torch.testing.assert_close(uv.grad[0], -w[..., None] * torch.tensor([20.0, 60.0], dtype=F64))


# Largest differences met, relative to the largest entry: 2e-7 in float32, 2e-15 in float64.
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (F64, 1e-12)])
@pytest.mark.parametrize(
    ("height", "width", "size", "channels"), [(9, 11, 16, 5), (2, 2, 40, 1), (6, 17, 33, 19), (8, 8, 7, 16)]
)
def test_kernel_is_twin(dtype, tolerance, height, width, size, channels):
    uv = random_sheet(2, height, width, seed=height * width, dtype=dtype)
    drawn = torch.rand(2, height, width, generator=torch.Generator().manual_seed(2), device="cpu")
    coverage = (drawn > 0.1).to(uv.device)
    coverage[0] = True
    assert assert_same_as_twin(uv, coverage, size, channels, tolerance).sum() > 0


# One rounding of the mean and of the gradient: 2^-9 and 2^-12 of the largest entry; the sums are float32.
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_short_features_are_summed_in_float32(dtype, rounding):
    uv = random_sheet(2, 9, 11, seed=4, dtype=torch.float32)
    coverage = torch.ones(2, 9, 11, dtype=torch.bool)
    short = random_features(uv, 40).to(dtype)
    upstream = random_features(uv.new_empty(2, 16, 16, 1), 40, seed=1).to(dtype)
    results = []
    for features, gradient in ((short, upstream), (short.float(), upstream.float())):
        leaves = features.clone().requires_grad_(), uv.clone().requires_grad_()
        mean, weight = uv_scatter(*leaves, coverage, 16)
        assert mean.dtype == features.dtype and weight.dtype == torch.float32
        results.append((mean.detach(), weight, *torch.autograd.grad(mean, leaves, gradient)))
    for ours, exact, bound in zip(*results, (rounding, 0, rounding, 1e-6), strict=True):
        assert (ours.float() - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("look", ["seam", "side", "pole"])
def test_sphere_views(look):
    uv, coverage = view_of_sphere(23, 20, look)
    weight = assert_same_as_twin(uv, coverage, 24, 3, 1e-12)[0]
    if look == "seam":  # both sides of u = 0 are seen, the far side is not
        assert weight[12, 0] == weight[12, -1] == 1
        assert weight[:, 12].sum() == 0
    if look == "pole":  # quads around the pole span too much of u; the rings below them are complete
        assert weight[0].sum() <= 1
        assert (weight[1:8] == 1).all()


@pytest.mark.usefixtures("device")
def test_lifts_a_linear_function_exactly():
    # Features that are linear in (u, v) come back as the texel centres' own coordinates.
    uv = random_sheet(1, 12, 12, seed=5)
    uv[..., 0] = uv[..., 0] * 0.3 + 0.1
    mean, weight = uv_scatter(uv, uv, torch.ones(1, 12, 12, dtype=torch.bool), 32)
    ticks = (torch.arange(32, dtype=F64) + 0.5) / 32
    centre = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    seen = weight[0] > 0
    assert seen.sum() > 20
    torch.testing.assert_close(mean[0][seen], centre[seen], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [6, 7, 8])
@pytest.mark.parametrize("turn", ["as is", "mirrored", "transposed"])
def test_shared_edges_have_one_owner(dtype, size, turn):
    # A band closed around u whose corners and edges pass exactly through texel centres.
    columns, rows = torch.arange(2 * size + 1), torch.arange(2 * (size - 1) + 1)
    u, v = (columns.to(dtype) / 2 + 0.5) / size % 1, (rows.to(dtype) / 2 + 0.5) / size
    u[-1] = u[0]  # the same corner, to the last bit
    uv = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)[None]
    if turn == "mirrored":
        uv = uv.flip(2)
    if turn == "transposed":
        uv = uv.transpose(1, 2)
    coverage = torch.ones(uv.shape[:3], dtype=torch.bool)
    weight = uv_scatter(uv, uv, coverage, size)[1][0]
    assert (weight[1:-1] == 1).all()  # inside: once each, also on the seam and at corners
    if (
        dtype == F64 or size == 8
    ):  # where rounding leaves the rims on the centres, one of the two owns its own
        assert sorted([weight[0].unique().item(), weight[-1].unique().item()]) == [0, 1]
    assert torch.equal(weight, uv_scatter_reference(uv, uv, coverage, size)[1][0])


@pytest.mark.usefixtures("device")
def test_several_quads_on_one_texel_average():
    sheet = torch.tensor([[[0.2, 0.2], [0.3, 0.2]], [[0.2, 0.3], [0.3, 0.3]]], dtype=F64)
    uv = torch.cat([sheet, sheet], 1)[None]  # [1, 2, 4, 2]; between the sheets, a quad that runs backwards
    features = torch.tensor([1.0, 1, 1, 7], dtype=F64).expand(1, 2, 4)[..., None]
    mean, weight = uv_scatter(features, uv, torch.ones(1, 2, 4, dtype=torch.bool), 2)
    assert weight[0, 0, 0] == 3
    assert mean[0, 0, 0, 0] == pytest.approx((1 + 1 + 4) / 3, abs=1e-12)
    many = uv.repeat(1, 1, 10, 1)  # 39 quads: the paper's list ends at 10
    assert assert_same_as_twin(many, torch.ones(1, 2, 40, dtype=torch.bool), 2, 3, 1e-12)[0, 0, 0] == 39


@pytest.mark.usefixtures("device")
def test_wide_folded_and_degenerate_quads_are_skipped():
    def weight_of(corners: list[list[float]], max_extent: float = 0.2) -> float:
        uv = torch.tensor(corners, dtype=F64).view(1, 2, 2, 2)
        return uv_scatter(uv, uv, torch.ones(1, 2, 2, dtype=torch.bool), 50, max_extent)[1].sum().item()

    assert weight_of([[0.2, 0.2], [0.39, 0.2], [0.2, 0.3], [0.39, 0.3]]) > 0
    wide = [[0.2, 0.2], [0.41, 0.2], [0.2, 0.3], [0.41, 0.3]]
    assert weight_of(wide) == 0
    assert weight_of(wide, max_extent=0.3) > 0
    assert weight_of([[0.2, 0.2], [0.3, 0.2], [0.3, 0.3], [0.2, 0.3]]) == 0  # a bow tie
    assert weight_of([[0.2, 0.2], [0.3, 0.2], [0.2, 0.3], [0.21, 0.21]]) == 0  # an arrow head
    assert weight_of([[0.2, 0.2], [0.3, 0.2], [0.2, 0.2], [0.3, 0.2]]) == 0  # flat


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("covered", [0, 1])
def test_nothing_or_one_pixel_covered(covered):
    coverage = torch.zeros(1, 4, 4, dtype=torch.bool)
    coverage.view(-1)[:covered] = True
    uv = torch.full((1, 4, 4, 2), math.nan)  # what lies outside the coverage is not read
    uv.view(-1, 2)[:covered] = 0.3
    features = torch.full((1, 4, 4, 3), math.nan, requires_grad=True)
    uv.requires_grad_()
    mean, weight = uv_scatter(features, uv, coverage, 5)
    assert not mean.any() and not weight.any()
    mean.sum().backward()
    assert not features.grad.any() and not uv.grad.any()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("shape", [(0, 3, 3), (1, 1, 5), (1, 5, 1)])
def test_no_quads(shape):
    uv = torch.zeros(*shape, 2)
    mean, weight = uv_scatter(torch.zeros(*shape, 2), uv, torch.ones(shape, dtype=torch.bool), 4)
    assert mean.shape == (shape[0], 4, 4, 2) and weight.shape == (shape[0], 4, 4)
    assert not mean.any() and not weight.any()


@pytest.mark.usefixtures("device")
def test_layouts():
    uv = random_sheet(2, 7, 9, seed=1)
    features = random_features(uv, 6)
    coverage = torch.ones(2, 7, 9, dtype=torch.bool)
    expected = uv_scatter(features, uv, coverage, 12)
    first = features.permute(0, 3, 1, 2).contiguous().requires_grad_()
    strided = uv.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    ours = uv_scatter(first, strided, coverage.mT.contiguous().mT, 12, channel_first=True)
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
    upstream = torch.ones(2, 1, 1, 6, dtype=F64).expand_as(ours[0])  # a gradient with strides of 0
    ours[0].backward(upstream)
    assert first.grad.shape == first.shape and first.grad.abs().sum() > 0


@pytest.mark.usefixtures("device")
def test_same_bits_on_any_number_of_threads():
    # More threads than images cut an image into bands of rows; than rows, leave bands empty.
    for batch in (5, 1):
        uv = random_sheet(batch, 12, 12, seed=3, dtype=torch.float32).requires_grad_()
        features = random_features(uv, 8).requires_grad_()
        coverage = torch.ones(batch, 12, 12, dtype=torch.bool)
        threads, results = torch.get_num_threads(), []
        try:
            for count in (1, 2, 3, 16, 64):
                torch.set_num_threads(count)
                mean, weight = uv_scatter(features, uv, coverage, 20)
                results.append((mean, weight, *torch.autograd.grad(mean.square().sum(), (features, uv))))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
@pytest.mark.parametrize("step", ["forward", "backward"])
def test_more_hits_than_memory_is_an_error(step):
    """Eight thousand quads over the same forty thousand texels: ten gigabytes of hits."""
    code = """if True:
        import resource, sys, torch
        from ntdm.ops.uv_scatter import uv_scatter
        i, j = torch.meshgrid(torch.arange(80), torch.arange(100), indexing="ij")
        uv = 0.3 + 0.19 * torch.stack([j % 2, i % 2], -1)[None].float()
        features, coverage = torch.ones(1, 80, 100, 1), torch.ones(1, 80, 100, dtype=torch.bool)
        uv_scatter(features, uv, coverage, 16)  # everything is loaded
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,) * 2)
        try:
            if sys.argv[1] == "forward":
                uv_scatter(features, uv, coverage, 1024)
            else:
                mean, weight = torch.ones(1, 1024, 1024, 1), torch.ones(1, 1024, 1024)
                torch.ops.ntdm.uv_scatter_backward(mean, features, uv, coverage, weight, 0.2, True, True)
        except ValueError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code, step], capture_output=True, text=True, check=False)
    assert "do not fit into memory: lower size or max_extent" in done.stdout, done.stderr[-2000:]


def overlapping() -> Tensor:
    one = random_sheet(1, 4, 4, seed=8)
    return torch.cat([one, random_sheet(1, 4, 4, seed=9)], 2)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("case", ["random", "seam", "pole", "grazing", "overlapping"])
def test_gradcheck(case):
    coverage = None
    if case == "random":
        uv = random_sheet(2, 4, 5, seed=6)
        uv[..., 0] = (uv[..., 0] + 0.4) % 1
    elif case == "grazing":  # slivers: a twentieth of the area that their sides would span
        uv = random_sheet(2, 4, 5, seed=6)
        uv[..., 0] = (uv[..., 0] + 0.4) % 1
        uv = uv @ torch.tensor([[0.75, 0.7], [0.7, 0.75]], dtype=F64)
    elif case == "overlapping":
        uv = overlapping()
    else:
        uv, coverage = view_of_sphere(8, 8, case)
    if coverage is None:
        coverage = torch.ones(uv.shape[:3], dtype=torch.bool)
    features = random_features(uv, 3).requires_grad_()
    uv.requires_grad_()
    seen = uv_scatter(features, uv, coverage, 13)[1] > 0
    assert seen.sum() > 5
    assert torch.autograd.gradcheck(lambda f, x: uv_scatter(f, x, coverage, 13)[0][seen], (features, uv))
    # Either input alone takes another path through the backward kernel.
    still = uv.detach()
    assert torch.autograd.gradcheck(lambda f: uv_scatter(f, still, coverage, 13)[0][seen], (features,))


def test_opcheck_and_compile():
    uv = random_sheet(1, 4, 5, seed=6).requires_grad_()
    features = random_features(uv, 3).requires_grad_()
    coverage = torch.ones(1, 4, 5, dtype=torch.bool)
    torch.library.opcheck(torch.ops.ntdm.uv_scatter.default, (features, uv, coverage, 9, 0.2))
    grad = random_features(torch.empty(1, 9, 9, 1, dtype=F64), 3)
    weight = uv_scatter(features, uv, coverage, 9)[1]
    arguments = (grad, features.detach(), uv.detach(), coverage, weight, 0.2)
    for wanted in ((True, True), (True, False)):
        torch.library.opcheck(torch.ops.ntdm.uv_scatter_backward.default, (*arguments, *wanted))

    def loss(features: Tensor, uv: Tensor) -> Tensor:
        mean, weight = uv_scatter(features, uv, coverage, 9)
        return (mean.square() * weight[..., None]).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(features, uv), (features, uv))
    for ours, plain in zip(
        torch.autograd.grad(compiled(features, uv), (features, uv)), expected, strict=True
    ):
        torch.testing.assert_close(ours, plain)


def test_second_derivative_is_refused():
    uv = random_sheet(1, 4, 5, seed=6).requires_grad_()
    mean, _ = uv_scatter(random_features(uv, 3), uv, torch.ones(1, 4, 5, dtype=torch.bool), 9)
    (first,) = torch.autograd.grad(mean.square().sum(), uv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"features": torch.zeros(3, 4, 5)}, r"features has shape \(3, 4, 5\): want \[B, h, w, d\]"),
        ({"features": torch.zeros(3, 4, 5), "channel_first": True}, r"want \[B, d, h, w\]"),
        ({"features": torch.zeros(1, 3, 4, 2, dtype=torch.int64)}, "features is torch.int64: convert"),
        ({"features": torch.zeros(1, 3, 4, 2, device="meta")}, "features is on meta: want the CPU or CUDA"),
        ({"uv": torch.zeros(1, 3, 3, 2)}, r"uv has shape \(1, 3, 3, 2\): want \(1, 3, 4, 2\)"),
        (
            {"uv": torch.zeros(1, 3, 4, 2, dtype=F64)},
            "uv is torch.float64 on cpu: convert it to torch.float32",
        ),
        ({"coverage": torch.ones(1, 3, 3, dtype=torch.bool)}, r"coverage has shape \(1, 3, 3\)"),
        ({"coverage": torch.ones(1, 3, 4)}, "coverage is torch.float32 on cpu: convert it to torch.bool"),
        ({"size": 0}, "size is 0: want 1 texel"),
        ({"size": 2**15 + 1}, "the mean, .* has 2147614722 elements: want 2147483648 at most"),
        ({"max_extent": 0.5}, "max_extent is 0.5: want more than 0"),
        ({"max_extent": 0.0}, "max_extent is 0.0: want more than 0"),
        ({"uv": torch.full((1, 3, 4, 2), math.inf)}, r"uv\[0\] is not finite at a covered pixel"),
    ],
)
def test_bad_input(change, match):
    good = {
        "features": torch.zeros(1, 3, 4, 2),
        "uv": torch.zeros(1, 3, 4, 2),
        "coverage": torch.ones(1, 3, 4, dtype=torch.bool),
        "size": 4,
    }
    with pytest.raises(ValueError, match=match):
        uv_scatter(**good | change)


def test_more_elements_than_are_counted_in_32_bits():
    # One number, repeated by strides of 0: no such memory is there, and none is asked for.
    pixels = (2**11, 2**10, 2**10)
    features, uv = torch.zeros(1).expand(*pixels, 2), torch.zeros(1).expand(*pixels, 2)
    with pytest.raises(ValueError, match=r"features, .* has 4294967296 elements: want 2147483648 at most"):
        uv_scatter(features, uv, torch.zeros(1, dtype=torch.bool).expand(pixels), 1)
