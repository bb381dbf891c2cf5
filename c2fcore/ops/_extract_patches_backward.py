"""The gradient of extract_patches, an op of its own, and what every backend of both can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _cuda, _native, _triton
from ..reference.extract_patches import extract_patches_backward
from ..windows import Windows
from . import _library


def _reads(why_not: Callable[[Tensor, bool], str], image: Tensor, grad: bool) -> str:
    """Why a backend's kernels cannot take a call, "" if they can."""
    if image.dtype == torch.float64:
        return "does not read float64 images"
    return why_not(image, grad)


cuda_reads, triton_reads, cpu_reads = (
    partial(_reads, why_not) for why_not in (_cuda.why_not, _triton.why_not, _library.cpu_only)
)


def windows_of(origins: Tensor, num: Tensor, window: int) -> Windows:
    """Windows for cutting, where counts play no part."""
    return Windows(origins, origins[..., 0], num, window)


def _reference_backward(
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> Tensor:
    windows = windows_of(origins, num, window)
    return extract_patches_backward(grad, image, windows, mode=mode, scale=scale, std=std)


def _cpu_backward(
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> Tensor:
    found = torch.empty(image.shape, dtype=torch.float32)
    where = (grad, origins.contiguous(), num.contiguous(), window)
    threads = torch.get_num_threads()
    _native.cpu_module().extract_patches_backward(*where, found, mode, scale, std, threads)
    return found.to(image.dtype)


def _backward_by_cuda(
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> Tensor:
    found = torch.empty(image.shape, dtype=torch.float32, device=image.device)
    where = (grad, origins.contiguous(), num.contiguous(), window)
    _cuda.run("extract_patches_backward", *where, found, mode, scale, std)
    return found.to(image.dtype)


def _backward_by_triton(
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> Tensor:
    found = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    where = (origins.contiguous(), num.contiguous(), window)
    _triton.run("extract_patches_backward", grad, *where, found, mode, scale, std)
    return found


def _fake_backward(
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
    backend: str,
) -> Tensor:
    return torch.empty(image.shape, dtype=image.dtype, device=image.device)


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, _, origins, num, window, mode, scale, std, backend = inputs
    ctx.save_for_backward(origins, num)
    side = grad.shape[-1]
    # Linear as well: its gradient is the op itself, without the mean.
    ctx.call = (window, side, mode, scale, None, std, grad.dtype, False, backend)


def _backward_of_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    forward = torch.ops.c2fcore.extract_patches
    return (forward(grad, *ctx.saved_tensors, *ctx.call), *[None] * 8)


_backend.register(
    "extract_patches_backward",
    cuda=_backend.Backend(_backward_by_cuda, _cuda.missing, cuda_reads, gpu=True),
    triton=_backend.Backend(_backward_by_triton, _triton.missing, triton_reads, gpu=True),
    cpu=_backend.Backend(_cpu_backward, _native.cpu_missing, cpu_reads),
    reference=_backend.Backend(_reference_backward),
)
_library.define(
    "extract_patches_backward(Tensor grad, Tensor image, Tensor origins, Tensor num, int window, "
    "str mode, float scale, float[]? std, str backend) -> Tensor",
    _fake_backward,
)
torch.library.register_autograd(
    "c2fcore::extract_patches_backward",
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
    lib=_library.LIBRARY,
)
