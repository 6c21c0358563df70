"""Several processes as one: those that torchrun starts share a batch, and its sums are those of one process.

    torchrun --standalone --nproc-per-node 8 --no-python -- ntdm train ...

Every process works on its own part of a batch, in order: the parts of all ranks, one after another, are the
batch. Random draws are not shared but repeated: every rank draws for the whole batch from the same generator.
Alone, without torchrun, every function here gives back what it was given.
"""

import atexit
import datetime
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

# A rank waits this long for another: one may still be predicting when another has nothing left to do.
_PATIENCE = datetime.timedelta(hours=12)


def join(device: str) -> None:
    """Joins the processes that torchrun started, until the end; on CUDA each takes its own device.

    Raises ValueError where there are more processes than CUDA devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("WORLD_SIZE is set and LOCAL_RANK is not: start several processes by torchrun")
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun starts process {local + 1} on this machine, which has {torch.cuda.device_count()} "
                "CUDA devices: lower --nproc-per-node, or pass --device cpu"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    atexit.register(dist.destroy_process_group)


def size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def shard(count: int) -> slice:
    """This process's part of `count` things in a row."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def barrier() -> None:
    """Until every process has come as far."""
    if size() > 1:
        dist.barrier()


def all_reduce_sum(number: float) -> float:
    """The sum of every process's number."""
    if size() == 1:
        return number
    value = torch.tensor(number, dtype=torch.float64, device=_device())
    dist.all_reduce(value)
    return value.item()


def all_gather_counts(counts: Sequence[int]) -> tuple[list[int], slice]:
    """Every process's whole numbers, one after another, and where this one's stand among them."""
    if size() == 1:
        return list(counts), slice(0, len(counts))
    lengths = _same_size(torch.tensor([len(counts)], device=_device())).flatten().tolist()
    start = sum(lengths[: rank()])
    gathered = all_gather_rows(torch.tensor(counts, dtype=torch.int64, device=_device()))
    return gathered.tolist(), slice(start, start + len(counts))


def all_gather_rows(rows: Tensor) -> Tensor:
    """Every process's rows [n, ...], one after another [sum of n, ...]; differentiable in each one's own."""
    if size() == 1:
        return rows
    counts = _same_size(torch.tensor([len(rows)], device=_device())).flatten().tolist()
    longest = max(counts)
    padded = F.pad(rows.flatten(1) if rows.dim() > 1 else rows[:, None], (0, 0, 0, longest - len(rows)))
    parts = _Gather.apply(padded.contiguous()) if rows.requires_grad else _same_size(padded.contiguous())
    joined_rows = torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
    return joined_rows.reshape(-1, *rows.shape[1:])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every parameter's gradient by its sum over the processes; all have the same parameters."""
    if size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def with_joint_norm(module: nn.Module) -> nn.Module:
    """`module` with batch norms that take their statistics over all processes; the same names and numbers."""
    if size() == 1:
        return module
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            joint = JointBatchNorm(child.num_features, child.eps, child.momentum)
            joint.to(child.weight.device, child.weight.dtype).load_state_dict(child.state_dict())
            setattr(module, name, joint)
        else:
            with_joint_norm(child)
    return module


class JointBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes; torch's SyncBatchNorm has no CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same, normalised."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        cells = wide.new_full((wide.shape[1],), x.shape[0] * x.shape[2] * x.shape[3])
        summed, count = _Sum.apply(torch.stack([wide.sum((0, 2, 3)), cells]))
        mean = summed / count
        # Squares of deviations, not of values: where |mean| >> std the difference of two sums would cancel.
        variance = _Sum.apply((wide - mean[:, None, None]).square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), self.momentum)
        gain = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * gain
        return (wide * gain[:, None, None] + shift[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the processes. Every process's loss depends on it, so the gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed


class _Gather(torch.autograd.Function):
    """[n, c] of every process -> [ranks, n, c]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _same_size(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed[rank()]


def _same_size(value: Tensor) -> Tensor:
    """[ranks, ...] of every process's tensor, all of one size."""
    parts = [torch.empty_like(value) for _ in range(size())]
    dist.all_gather(parts, value.detach())
    return torch.stack(parts)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
