"""Texture look-up and similarity against hand-computed values, the torch twins, and finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.ops.texture_lookup import (
    texture_lookup,
    texture_lookup_reference,
    texture_similarity,
    texture_similarity_reference,
)

F64 = torch.float64


def problem(
    maps: int, size: int, bins: int, channels: int, points: int, dtype: torch.dtype = F64, seed: int = 0
) -> dict[str, Tensor]:
    """Random arguments, drawn on the CPU; uv leaves [0, 1] on every side, a third of the bins is unseen."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device="cpu")

    drawn = {
        "texture": normalize(randn(maps, size, size, bins, channels), dim=-1),
        "seen": (randn(maps, size, size, bins) > -0.4).to(dtype),
        "map_index": torch.randint(0, maps, (points,), generator=generator, device="cpu"),
        "uv": torch.rand(points, 2, generator=generator, dtype=dtype, device="cpu") * 1.4 - 0.2,
        "alpha": torch.softmax(randn(points, bins), -1),
    }
    return {name: tensor.to(torch.get_default_device()) for name, tensor in drawn.items()}


def targets(given: dict[str, Tensor], rows: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    texture = given["texture"]
    drawn = torch.randn(rows, texture.shape[-1], generator=generator, dtype=texture.dtype, device="cpu")
    return normalize(drawn.to(texture.device), dim=-1)


def values_and_gradients(op, given: dict[str, Tensor], *rest: Tensor) -> list[Tensor]:
    leaves = {name: given[name].clone().requires_grad_() for name in ("uv", "alpha")}
    results = op(*(given | leaves).values(), *rest)
    weights = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view(r.shape).cos() for r in results]
    sum((r * w).sum() for r, w in zip(results, weights, strict=True)).backward()
    return [*(r.detach() for r in results), *(leaf.grad for leaf in leaves.values())]


@pytest.mark.usefixtures("device")
def test_hand_computed():
    # A 2 x 2 map with one bin of two channels; the last texel is unseen.
    texture = torch.tensor([[[[1.0, 0]], [[0, 1.0]]], [[[0, 1.0]], [[1.0, 0]]]], dtype=F64)[None]
    seen = torch.tensor([[[1.0], [1]], [[1], [0]]], dtype=F64)[None]
    uv = torch.tensor(
        [[0.25, 0.25], [0.5, 0.25], [0.0, 0.25], [1.0, -3], [0.5, 0.5], [0.75, 0.75]], dtype=F64
    )
    feature, evidence = texture_lookup(
        texture, seen, torch.zeros(6, dtype=torch.int64), uv, torch.ones(6, 1, dtype=F64)
    )
    half = math.sqrt(0.5)
    expected = [
        [1, 0],  # a texel's own centre
        [half, half],  # half way to its neighbour
        [half, half],  # the neighbour across the seam
        [half, half],  # the same point a turn on, v clamped
        [1 / math.sqrt(5), 2 / math.sqrt(5)],  # three seen texels of four
        [0, 0],  # nothing seen
    ]
    torch.testing.assert_close(feature, torch.tensor(expected, dtype=F64))
    torch.testing.assert_close(evidence, torch.tensor([1, 1, 1, 1, 0.75, 0], dtype=F64))


# Largest differences met, relative to the largest entry: 1e-6 in float32, 5e-15 in float64.
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-12)])
@pytest.mark.parametrize(
    ("maps", "size", "bins", "channels", "points"),
    [(3, 9, 7, 37, 500), (1, 1, 1, 1, 20), (2, 16, 7, 64, 700), (1, 5, 1, 128, 33), (2, 2, 3, 8, 1)],
)
def test_kernel_is_twin(maps, size, bins, channels, points, dtype, tolerance):
    given = problem(maps, size, bins, channels, points, dtype)
    target = targets(given, points)
    pairs = [
        (texture_lookup, texture_lookup_reference, ()),
        (texture_similarity, texture_similarity_reference, (target,)),
    ]
    for op, twin, rest in pairs:
        ours, theirs = values_and_gradients(op, given, *rest), values_and_gradients(twin, given, *rest)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.abs().max().item()))


@pytest.mark.usefixtures("device")
def test_similarity_is_product_of_lookup():
    given = problem(2, 8, 7, 40, 100)
    rows = (torch.arange(100) * 7) % 10
    few = targets(given, 10)
    feature, evidence = texture_lookup(**given)
    shared = texture_similarity(**given, target=few, target_index=rows)
    own = texture_similarity(**given, target=few[rows])
    assert torch.equal(shared[0], own[0]) and torch.equal(shared[1], evidence)
    torch.testing.assert_close(own[0], (feature * few[rows]).sum(-1))
    grads = values_and_gradients(texture_similarity, given, few, rows)
    for a, b in zip(grads, values_and_gradients(texture_similarity, given, few[rows]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("device")
def test_everything_unseen():
    given = problem(1, 4, 3, 8, 10) | {"seen": torch.zeros(1, 4, 4, 3, dtype=F64)}
    for result in values_and_gradients(texture_lookup, given):
        assert not result.any()
    for result in values_and_gradients(texture_similarity, given, targets(given, 10)):
        assert not result.any()


@pytest.mark.usefixtures("device")
def test_no_points():
    given = problem(1, 4, 3, 8, 0)
    feature, evidence = texture_lookup(**given)
    assert feature.shape == (0, 8) and evidence.shape == (0,)
    assert texture_similarity(**given, target=targets(given, 0))[0].shape == (0,)


@pytest.mark.usefixtures("device")
def test_not_contiguous():
    given = problem(2, 6, 7, 16, 50)
    target = targets(given, 50)
    strided = {
        name: tensor.flip(0).contiguous().flip(0) if tensor.ndim == 1 else tensor.mT.contiguous().mT
        for name, tensor in given.items()
    }
    assert not strided["texture"].is_contiguous()
    for a, b in zip(
        values_and_gradients(texture_similarity, strided, target.mT.contiguous().mT),
        values_and_gradients(texture_similarity, given, target),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("device")
def test_same_bits_on_any_number_of_threads():
    given = problem(2, 6, 7, 16, 1000, torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(values_and_gradients(texture_similarity, given, targets(given, 1000)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("device")
def test_gradcheck():
    # Inside texels, across the seam, and beyond both ends of v, where v has no derivative.
    given = problem(2, 5, 3, 18, 40)
    beyond = (given["uv"][:, 1] * 5 < 0.5) | (given["uv"][:, 1] * 5 > 4.5)
    assert beyond.any() and not beyond.all()
    constant = [given[name] for name in ("texture", "seen", "map_index")]
    leaves = given["uv"].requires_grad_(), given["alpha"].requires_grad_()
    target = targets(given, 40)
    assert torch.autograd.gradcheck(lambda uv, alpha: texture_lookup(*constant, uv, alpha), leaves)
    assert torch.autograd.gradcheck(
        lambda uv, alpha: texture_similarity(*constant, uv, alpha, target), leaves
    )


def test_opcheck_and_compile():
    given = problem(2, 5, 3, 18, 6)
    given["uv"].requires_grad_()
    given["alpha"].requires_grad_()
    target = targets(given, 6)
    index = torch.arange(6)
    torch.library.opcheck(torch.ops.ntdm.texture_lookup.default, tuple(given.values()))
    for rest in ((target, None, True), (target, index, True)):
        torch.library.opcheck(torch.ops.ntdm.texture_similarity.default, (*given.values(), *rest))
    still = [tensor.detach() for tensor in given.values()]
    torch.library.opcheck(torch.ops.ntdm.texture_similarity.default, (*still, target, None, False))

    constant = [given[name] for name in ("texture", "seen", "map_index")]

    def loss(uv: Tensor, alpha: Tensor) -> Tensor:
        cosine, evidence = texture_similarity(*constant, uv, alpha, target)
        feature, _ = texture_lookup(*constant, uv, alpha)
        return (cosine * evidence).sum() + (feature * target.flip(0)).sum()

    leaves = given["uv"], given["alpha"]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for ours, plain in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_second_derivative_is_refused():
    given = problem(1, 5, 3, 8, 6)
    given["uv"].requires_grad_()
    for cosine in (texture_similarity(**given, target=targets(given, 6))[0], texture_lookup(**given)[0]):
        (first,) = torch.autograd.grad(cosine.square().sum(), given["uv"], create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"texture": torch.zeros(2, 4, 5, 3, 8)},
            r"texture has shape \(2, 4, 5, 3, 8\): want \[M, q, q, b, d\]",
        ),
        ({"texture": torch.zeros(2, 4, 4, 3, 8, dtype=torch.bfloat16)}, "texture is torch.bfloat16: convert"),
        ({"texture": torch.zeros(2, 4, 4, 3, 8, device="meta")}, "texture is on meta: want the CPU or CUDA"),
        ({"seen": torch.zeros(2, 4, 4)}, r"seen has shape \(2, 4, 4\): want \(2, 4, 4, 3\)"),
        ({"seen": torch.zeros(2, 4, 4, 3, dtype=torch.bool)}, "seen is torch.bool on cpu: convert"),
        ({"uv": torch.zeros(5, 3)}, r"uv has shape \(5, 3\): want \[P, 2\]"),
        ({"uv": torch.zeros(5, 2, dtype=F64)}, "uv is torch.float64 on cpu: convert"),
        ({"uv": torch.full((5, 2), math.nan)}, r"uv\[0\] is \[nan, nan\]: want finite"),
        ({"alpha": torch.zeros(5, 2)}, r"alpha has shape \(5, 2\): want \(5, 3\)"),
        (
            {"map_index": torch.zeros(4, dtype=torch.int64)},
            r"map_index has shape \(4,\): want \(5,\) as uv",
        ),
        ({"map_index": torch.zeros(5)}, "map_index is torch.float32 on cpu: convert it to torch.int64"),
        ({"map_index": torch.tensor([0, 1, 2, 0, -1])}, r"map_index\[2\] is 2: want 0 to 1"),
        ({"target": torch.zeros(5, 7)}, r"target has shape \(5, 7\): want \[N, 8\]"),
        ({"target": torch.zeros(5, 8, dtype=F64)}, "target is torch.float64 on cpu: convert"),
        (
            {"target": torch.zeros(4, 8)},
            "target has 4 rows for 5 points: want one a point, or pass target_index",
        ),
        ({"target_index": torch.zeros(4, dtype=torch.int64)}, r"target_index has shape \(4,\): want \(5,\)"),
        ({"target_index": torch.tensor([0, 5, 0, 0, 0])}, r"target_index\[1\] is 5: want 0 to 4"),
    ],
)
def test_bad_input(change, match):
    good = problem(2, 4, 3, 8, 5, torch.float32)
    good["target"] = targets(good, 5)
    with pytest.raises(ValueError, match=match):
        texture_similarity(**good | change)
    if "target" not in str(list(change)):
        del good["target"]
        with pytest.raises(ValueError, match=match):
            texture_lookup(**good | change)
