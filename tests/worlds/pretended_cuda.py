"""A CUDA device that is a CPU: tensors say they are on CUDA, and mixing them with others is an error.

It finds tensors that a stage forgot to move, on a machine without a GPU. It says nothing about kernels: the
CPU's run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
MIXING = ("aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_")  # allowed on CUDA, too


class PretendedTensor(torch.Tensor):
    """Says cuda:0, holds a CPU tensor."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        out = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="meta", requires_grad=held.requires_grad,
        )  # fmt: skip
        out.held = held
        return out

    # torch itself takes it for a meta tensor: a CUDA tensor makes it look for the device's driver.
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def __repr__(self) -> str:
        return f"PretendedTensor({self.held})"

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a tensor on cuda:0 to numpy: .cpu() is missing")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """Sends every operation, also those that make tensors, through :func:`run`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function: Any, args: tuple, kwargs: dict) -> Any:
    """One operation: on the held tensors, the result on CUDA if an argument is or if that was asked for."""
    pretended = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, PretendedTensor)]
    name, device = function.overloadpacket._qualified_op_name, kwargs.get("device")
    if name in MIXING:  # what they read from or write to decides
        on_cuda = isinstance(args[0], PretendedTensor)
    else:
        on_cuda = bool(pretended)
        plain = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        others = [tuple(x.shape) for x in plain if not isinstance(x, PretendedTensor) and x.dim()]
        if pretended and others:
            raise RuntimeError(f"{name}: tensors on cuda:0 and on the CPU, {others}")
    if device is not None:
        on_cuda = torch.device(device).type in ("cuda", "meta")
        kwargs = kwargs | {"device": torch.device("cpu")}
    held_args, held_kwargs = tree_map(
        lambda x: x.held if isinstance(x, PretendedTensor) else x, (args, kwargs)
    )
    known = {id(x.held): x for x in pretended}  # an operation in place returns its argument

    def wrap(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else PretendedTensor(x) if on_cuda else x

    return tree_map(wrap, function(*held_args, **held_kwargs))


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Within, the device "cuda" is there."""
    with (
        mock.patch("torch.cuda._lazy_init", return_value=None),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.get_device_name", return_value="a pretended device"),
        Pretend(),
    ):
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes them on the CPU, then moves them
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
