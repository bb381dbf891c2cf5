"""The gradient of extract_patches, an op of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _triton
from ..reference.extract_patches import extract_patches_backward
from ..windows import Windows
from . import _library

MODES = ("nearest", "bilinear", "bicubic")


def windows_of(origins: Tensor, num: Tensor, window: int) -> Windows:
    """Windows for cutting, where counts play no part: any tensor stands for them."""
    return Windows(origins, num, num, window)


def check_cut(op: str, image: Tensor, windows: Windows) -> int:
    """Checks the image and the windows of patches; returns n."""
    if image.ndim != 4 or image.shape[1] < 1:
        raise ValueError(f"{op}: image must be [B, C, H, W], got shape {tuple(image.shape)}")
    batch, _, height, width = image.shape
    return _checks.windows(op, windows, batch, height, width, image)


def check_options(
    op: str, image: Tensor, mode: str, mean: object, std: object
) -> tuple[list[float] | None, list[float] | None]:
    """Checks what patches and their gradient share; returns mean and std, one per channel."""
    if mode not in MODES:
        _checks.choice(op, "mode", mode, MODES)
    means = _checks.per_channel(op, "mean", mean, image.shape[1])
    stds = _checks.per_channel(op, "std", std, image.shape[1])
    if stds is not None:
        _checks.nonzero(op, "std", stds, std)
    return means, stds


def _check_call(
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> None:
    op = "extract_patches_backward"
    for name, tensor in (("grad", grad), ("image", image)):
        if tensor.dtype not in _checks.FLOAT_DTYPES:
            raise TypeError(f"{op}: {name} must be of a float type, got {tensor.dtype}")
    n = check_cut(op, image, windows_of(origins, num, window))
    shape, wanted = grad.shape, (image.shape[0] * n, image.shape[1])
    if len(shape) != 4 or shape[:2] != wanted or shape[2] != shape[3] or shape[2] < 1:
        raise ValueError(
            f"{op}: grad must be [B*n, C, p, p], got shape {tuple(shape)} for B*n={wanted[0]}, "
            f"C={wanted[1]}"
        )
    _checks.same_device(op, "image", image, grad)
    _checks.number(op, "scale", scale)
    check_options(op, image, mode, None, std)


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


def _by_kernels(
    launch: Callable[..., None],
    grad: Tensor,
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> Tensor:
    # Triton's kernel writes its sums in the image's own dtype.
    dtype = image.dtype if launch is _triton.run else torch.float32
    found = torch.empty(image.shape, dtype=dtype, device=image.device)
    where = (grad, origins.contiguous(), num.contiguous(), window)
    launch("extract_patches_backward", *where, found, mode, scale, std)
    return found.to(image.dtype)


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


_library.register(
    "extract_patches_backward", _by_kernels, _reference_backward, unread=torch.float64
)
_library.define(
    "extract_patches_backward(Tensor grad, Tensor image, Tensor origins, Tensor num, int window, "
    "str mode, float scale, float[]? std, str backend) -> Tensor",
    _check_call,
    _fake_backward,
)
torch.library.register_autograd(
    "c2fcore::extract_patches_backward",
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
    lib=_library.LIBRARY,
)
