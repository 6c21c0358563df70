"""The texture update: kernel against twin, the rule by hand, arguments refused."""

import math

import pytest
import torch
from torch import Tensor

from ntdm.ops.texture_update import texture_update, texture_update_reference


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device="cpu")

    theta = torch.nn.functional.normalize(randn(50, 7, 20), dim=-1)
    seen = (randn(50, 7) < 0).to(dtype)
    texels = torch.randperm(50, generator=generator, device="cpu")[:31]
    features = torch.nn.functional.normalize(randn(31, 20), dim=-1)
    alpha = torch.softmax(3 * randn(31, 7), -1)
    device = torch.get_default_device()
    return theta.to(device), seen.to(device), texels.to(device), features.to(device), alpha.to(device)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_kernel_equals_twin(dtype: torch.dtype, tolerance: float) -> None:
    theta, seen, *rest = problem(dtype)
    other, other_seen = theta.clone(), seen.clone()
    texture_update(theta, seen, *rest, 0.9, 0.05)
    texture_update_reference(other, other_seen, *rest, 0.9, 0.05)
    # worst seen: 6e-8 and 1.2e-16
    assert torch.allclose(theta, other, rtol=0, atol=tolerance)
    assert torch.equal(seen, other_seen)


@pytest.mark.usefixtures("device")
def test_the_rule_by_hand() -> None:
    theta, seen = torch.tensor([[[1.0, 0.0], [9.0, 9.0], [9.0, 9.0]]]), torch.tensor([[1.0, 0.0, 0.0]])
    texture_update(
        theta,
        seen,
        torch.tensor([0]),
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([[0.5, 0.4, 0.01]]),
        0.9,
        0.05,
    )
    length = math.hypot(0.95, 0.05)
    assert torch.allclose(theta[0, 0], torch.tensor([0.95 / length, 0.05 / length]))
    assert theta[0, 1].tolist() == [0.0, 1.0]  # first visit
    assert theta[0, 2].tolist() == [9.0, 9.0]  # too oblique to count
    assert seen.tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.usefixtures("device")
def test_no_texels() -> None:
    theta, seen, texels, features, alpha = problem(torch.float32)
    before = theta.clone()
    texture_update(theta, seen, texels[:0], features[:0], alpha[:0], 0.9, 0.05)
    assert torch.equal(theta, before)


def test_bad_arguments() -> None:
    theta, seen, texels, features, alpha = problem(torch.float32)
    with pytest.raises(ValueError, match="texels run from 50 to 50: want 0 to 49"):
        texture_update(theta, seen, texels * 0 + 50, features, alpha, 0.9, 0.05)
    with pytest.raises(ValueError, match=r"features has shape \(31, 3\): want \(31, 20\)"):
        texture_update(theta, seen, texels, features[:, :3], alpha, 0.9, 0.05)
    with pytest.raises(ValueError, match="alpha is"):
        texture_update(theta, seen, texels, features, alpha.double(), 0.9, 0.05)
    for changed, match in (
        (theta.half(), "theta is torch.float16"),
        (theta[0], r"theta is torch.float32 \(7, 20\): want float32 or float64 \[T, b, d\]"),
        (theta.to("meta"), "theta is on meta: want the CPU or CUDA"),
        (theta.repeat(1, 1, 2)[..., ::2], "theta has strides .* want contiguous"),
    ):
        with pytest.raises(ValueError, match=match):
            texture_update(changed, seen, texels, features, alpha, 0.9, 0.05)
    with pytest.raises(ValueError, match="seen has strides"):
        texture_update(theta, seen.repeat(1, 2)[:, ::2], texels, features, alpha, 0.9, 0.05)
    with pytest.raises(ValueError, match=r"texels is torch\.int32 on cpu: convert it to torch\.int64"):
        texture_update(theta, seen, texels.int(), features, alpha, 0.9, 0.05)


def test_opcheck_and_compile() -> None:
    """It is known to torch as an operator that changes its first two arguments and nothing else."""
    theta, seen, *rest = problem(torch.float32)
    torch.library.opcheck(torch.ops.ntdm.texture_update.default, (theta, seen, *rest, 0.1, 0.05))
    other, other_seen = theta.clone(), seen.clone()

    def step(theta: Tensor, seen: Tensor) -> Tensor:
        texture_update(theta, seen, *rest, 0.9, 0.05)
        return theta.sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)(other, other_seen)
    assert torch.equal(compiled, step(theta, seen)) and torch.equal(other, theta)
