"""How an operator is registered with torch: schema, implementations, shapes for tracing, derivative.

`torch.ops.ntdm.<name>` is then known to autograd, torch.compile and torch.library.opcheck. Implementations
run below autograd, on real tensors, and call kernels by :func:`ntdm.ops.kernels.call`.
"""

from collections.abc import Callable
from typing import Any

import torch

from ntdm.ops import kernels

_library = torch.library.Library("ntdm", "FRAGMENT")


def register(
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
    context: Callable[..., None] | None = None,
    gradient: Callable[..., Any] | None = None,
) -> None:
    """Register one operator.

    Args:
        schema: name, arguments and results, as torch writes them; the first argument is a tensor.
        implementation: what it does, where the kernels are the CPU's, and for those of CUDA as well unless
            `cuda` is given.
        fake: the results' shapes and types, without values.
        cuda: what it does where the kernels are CUDA's and want scratch memory and sorted lists.
        context: keeps what the derivative needs; None with `gradient`.
        gradient: gradients to the arguments from those to the results.
    """
    name = schema.partition("(")[0]
    _library.define(schema)

    on_cuda = cuda or implementation

    def run(*arguments: Any) -> Any:
        return (on_cuda if kernels.target(arguments[0]).cuda else implementation)(*arguments)

    for key in ("CPU", "CUDA"):
        _library.impl(name, implementation if cuda is None else run, key)
    torch.library.register_fake(f"ntdm::{name}", fake, lib=_library)
    if gradient is not None:
        torch.library.register_autograd(f"ntdm::{name}", gradient, setup_context=context, lib=_library)
