"""extract_patches: what the fine network sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _arrays, _backend, _checks, _triton, reference
from ..reference.extract_patches import check_inside
from ..windows import Windows
from . import _library
from ._extract_patches_backward import MODES as MODES
from ._extract_patches_backward import check_cut, check_options, windows_of

_Channels = list[float] | None  # one value per channel
# p, mode, scale, mean, std, dtype, channels_last
_Options = tuple[int, str, float, _Channels, _Channels, torch.dtype, bool]


def extract_patches(
    image: Any,
    windows: Windows,
    *,
    zoom: float = 1.0,
    mode: str = "bilinear",
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    backend: str = "auto",
) -> Any:
    """Cuts the windows out of an image, zooms them, and normalises them.

    Patch (b, j) is image[b, :, y:y+k, x:x+k] resampled to p = round(k * zoom) exactly as
    F.interpolate(crop, size=p, mode=mode, align_corners=False) does (taps clamp at the patch
    border), then (v * scale - mean) / std in float32, cast to `dtype`. Unused slots are zeros.

    Args:
        image: [B, C, H, W], uint8/uint16/int16/float16/bfloat16/float32, any strides (channels_last
            and views of [B, H, W, C] included). float64 runs on the reference only.
        windows: as `select_windows` returns them; windows in use must lie inside the image.
        zoom: side of a patch over side of its window, > 0.
        mode: "bilinear", "nearest" or "bicubic" (a = -0.75; may overshoot, is not clamped).
        scale: factor before mean and std; None is 1/255 for uint8 and 1 otherwise.
        mean: subtracted; a number or one per channel.
        std: divided by; a number or one per channel, not 0, nor so small that float32 takes it
            for 0, or does not hold scale / std or mean / std.
        dtype: float type of the patches; None is the image's own, float32 for integer images.
        channels_last: memory format of the patches.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        [B*n, C, p, p]. Differentiable in a float image (not in the windows), deterministically, and
        twice. By torch.func and in forward mode on the reference, which "auto" takes for it.

    Raises:
        ValueError: a value breaks a rule above; the message says which, and the value.
        TypeError: a dtype is not among those above.
        NotImplementedError: the backend named lacks the image's dtype or these derivatives.
    """
    if not isinstance(image, Tensor):
        return _arrays.in_kind(
            extract_patches,
            "image",
            image,
            windows,
            zoom=zoom,
            mode=mode,
            scale=scale,
            mean=mean,
            std=std,
            dtype=dtype,
            channels_last=channels_last,
            backend=backend,
        )
    given = (zoom, mode, scale, mean, std, dtype, channels_last)
    found = _checked(image, windows, *given)
    seen = found is None
    if found is None:
        image = _arrays.as_tensor("extract_patches", "image", image)
        windows = _arrays.windows_as_tensors("extract_patches", windows)
        found = _check_extract_patches(image, windows, *given)
    options, widened = found
    call = (image, windows.origins, windows.num, windows.window, *options)
    if seen and image.is_floating_point() and _library.differentiated():
        patches = _backend.choose("extract_patches", backend, image, grad=True)(*call)
    elif (image.requires_grad and torch.is_grad_enabled()) or (
        seen and _library.dispatched(image, windows.origins, windows.num)
    ):
        patches = torch.ops.c2fcore.extract_patches(*call, backend)
    else:
        patches = _backend.choose("extract_patches", backend, image)(*call)
    return patches.double() if widened else patches


def _check_extract_patches(
    image: Tensor,
    windows: Windows,
    zoom: float,
    mode: str,
    scale: float | None,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[_Options, bool]:
    """Checks a call; returns its options, and whether the patches are to be float64 afterwards."""
    op = "extract_patches"
    floats = _check_image(image, windows)
    zoom = _checks.number(op, "zoom", zoom)
    if zoom <= 0:
        raise ValueError(f"{op}: zoom must be above 0, got {zoom}")
    side = round(windows.window * zoom)
    if side < 1:
        raise ValueError(
            f"{op}: window * zoom must round to at least 1, got {windows.window} * {zoom}"
        )
    if side > _checks.INT32_MAX:
        raise ValueError(
            f"{op}: window * zoom must be at most {_checks.INT32_MAX}, "
            f"got {windows.window} * {zoom}"
        )
    if scale is None:
        scale = 1 / 255 if image.dtype == torch.uint8 else 1.0
    if dtype is None:
        dtype = image.dtype if floats else torch.float32
    scale, means, stds = _check_values(image, mode, scale, mean, std, dtype)
    if type(channels_last) is not bool:
        raise TypeError(f"{op}: channels_last must be a bool, got {channels_last!r}")
    # Computed in float32 all the same: backends need no float64 for it.
    widened = dtype == torch.float64 != image.dtype
    made = torch.float32 if widened else dtype
    return (side, mode, scale, means, stds, made, channels_last), widened


_checked = _library.remembered(_check_extract_patches)


def _check_image(image: Tensor, windows: Windows) -> bool:
    """Checks the image and the windows; returns whether it is of floats."""
    floats = image.dtype in _checks.FLOAT_DTYPES
    if not floats and image.dtype not in _checks.INTEGER_IMAGE_DTYPES:
        raise TypeError(
            "extract_patches: image must be uint8/uint16/int16/float16/bfloat16/float32, "
            f"got {image.dtype}"
        )
    check_cut("extract_patches", image, windows)
    return floats


def _check_values(
    image: Tensor, mode: str, scale: object, mean: object, std: object, dtype: torch.dtype
) -> tuple[float, _Channels, _Channels]:
    """Checks how values are made; returns scale, mean and std, one per channel."""
    scale = _checks.number("extract_patches", "scale", scale)
    if dtype not in _checks.FLOAT_DTYPES:
        raise TypeError(f"extract_patches: dtype must be a float type, got {dtype}")
    means, stds = check_options("extract_patches", image, mode, mean, std)
    # Backends compute v * (scale / std) + (-mean / std).
    for i, deviation in enumerate(stds or ()):
        subtracted = means[i] if means else 0.0
        _checks.quotient("extract_patches", "scale / std", scale, deviation)
        _checks.quotient("extract_patches", "mean / std", subtracted, deviation)
    return scale, means, stds


def _check_call(
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    side: int,
    mode: str,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    _check_image(image, windows_of(origins, num, window))
    _checks.integer("extract_patches", "side", side, 1, _checks.INT32_MAX)
    _check_values(image, mode, scale, mean, std, dtype)


def _reference(
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    side: int,
    mode: str,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    return reference.extract_patches(
        image,
        windows_of(origins, num, window),
        zoom=side / window,
        mode=mode,
        scale=scale,
        mean=mean,
        std=std,
        dtype=dtype,
        channels_last=channels_last,
    )


def _by_kernels(
    launch: Callable[..., None],
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    side: int,
    mode: str,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    patches = _fake(image, origins, num, window, side, mode, scale, mean, std, dtype, channels_last)
    where = checked_windows("extract_patches", origins, num, window, *image.shape[-2:])
    layout = (channels_last,) if launch is _triton.run else ()  # the others see it from the strides
    launch("extract_patches", image, *where, patches, mode, scale, mean, std, *layout)
    return patches


def _fake(
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    side: int,
    mode: str,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
    backend: str = "",
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    patches, channels = origins.shape[0] * origins.shape[1], image.shape[1]
    return torch.empty(
        patches, channels, side, side, dtype=dtype, device=image.device, memory_format=layout
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, origins, num, window, _, mode, scale, _, std, _, _, backend = inputs
    # The op is linear: of the image only shape, dtype and device matter.
    _library.keep(ctx, image, origins, num)
    ctx.call = (window, mode, scale, std, backend)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.c2fcore.extract_patches_backward
    return (backward(grad, *ctx.saved_tensors, *ctx.call), *[None] * 11)


def checked_windows(
    op: str, origins: Tensor, num: Tensor, window: int, height: int, width: int
) -> tuple[Tensor, Tensor, int]:
    """Contiguous origins and num, and k; those on the CPU are looked at."""
    if not origins.is_cuda:
        check_inside(op, windows_of(origins, num, window), height, width)
    return origins.contiguous(), num.contiguous(), window


_library.register("extract_patches", _by_kernels, _reference, unread=torch.float64)
_library.define(
    "extract_patches(Tensor image, Tensor origins, Tensor num, int window, int side, str mode, "
    "float scale, float[]? mean, float[]? std, ScalarType dtype, bool channels_last, str backend) "
    "-> Tensor",
    _check_call,
    _fake,
)
torch.library.register_autograd(
    "c2fcore::extract_patches",
    _backward,
    setup_context=_setup_context,
    lib=_library.LIBRARY,
)
