"""NumPy and CuPy arrays in, arrays of the same kind out, without copies."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from .windows import Windows


def as_tensor(op: str, name: str, value: Any) -> Tensor:
    """`value` as a tensor that shares its memory.

    Arrays with negative or odd strides or a foreign byte order, which torch cannot view, are the
    one case that is copied. CuPy arrays come through DLPack: torch's current stream waits for
    CuPy's. Masked arrays (rasterio's `read(masked=True)`) are refused, since a tensor has no mask.
    """
    if isinstance(value, Tensor):
        if not _dense(value):
            layout = "nested" if value.is_nested else value.layout
            raise TypeError(f"{op}: {name} must be a dense tensor, got {layout}")
        if torch.compiler.is_compiling():  # neither test below can be traced
            return value.resolve_neg()
        # Kernels read memory directly. That of a lazily negated view (conj().imag) holds the
        # opposite values, and the zero tensors of automatic differentiation have none.
        if value.is_neg() or value._is_zerotensor():
            return value.clone()
        return value
    if isinstance(value, np.ndarray):
        if torch.compiler.is_compiling():  # to torch.compile it is a tensor already
            return torch.as_tensor(value)
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{op}: {name} must have no mask, which would be lost, got a masked array; "
                "array.filled(value) gives one without"
            )
        strange = not (value.dtype.isnative and value.flags.aligned)
        if strange or any(s < 0 for s in value.strides):
            value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        if not value.flags.writeable:
            _hear_of_read_only()
        try:
            return torch.from_numpy(value)
        except TypeError:
            raise TypeError(
                f"{op}: {name} must have a numeric dtype torch knows, got {value.dtype}"
            ) from None
    if is_cupy(value):
        return torch.utils.dlpack.from_dlpack(value)
    raise TypeError(
        f"{op}: {name} must be a torch.Tensor, numpy.ndarray or cupy.ndarray, "
        f"got {type(value).__name__}"
    )


@functools.cache
def _hear_of_read_only() -> None:
    """Has torch say once, to nobody, that a read-only array is dangerous; it says so only once.

    Such arrays (images just decoded) are fine: no op writes to its inputs. Filters of warnings are
    the process's, so that changing them at every call would meet those of other threads.
    """
    array = np.zeros(1)
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)


def in_kind(op: Callable[..., Any], name: str, given: Any, *args: Any, **options: Any) -> Any:
    """The answer of an op whose first argument is an array, as arrays of the same kind.

    With a CuPy array all of it is done on CuPy's current stream: nothing waits for another one, and
    memory that PyTorch takes belongs to the stream that will use it.
    """
    with _stream_of(given):
        answer = op(as_tensor(op.__name__, name, given), *args, **options)
        return _like(answer, given)


def handed_back(answer: Tensor, given: Any, device: torch.device) -> Any:
    """A tensor whose values are there, as an array of the kind of `given` on its device."""
    with _stream_of(given):
        return _like(answer.to(device), given)


def wait_for_cupy(stream: torch.cuda.Stream) -> None:
    """Has a stream of torch wait for CuPy's current one on the same device, if CuPy is in use."""
    cupy = sys.modules.get("cupy")
    if cupy is None or not cupy.is_available():
        return
    with cupy.cuda.Device(stream.device.index):
        handle = cupy.cuda.get_current_stream().ptr
    if handle != stream.cuda_stream:
        stream.wait_stream(_external(handle, stream.device.index))


def _like(answer: Any, given: Any) -> Any:
    """Tensors, alone or in tuples, as the kind of array that `given` is."""
    if isinstance(answer, Windows):
        origins, counts, num = (_like(part, given) for part in answer[:3])
        return Windows(origins, counts, num, answer.window)
    if isinstance(answer, tuple):
        return tuple(_like(part, given) for part in answer)
    if answer is None:
        return None
    if isinstance(given, np.ndarray):
        # Only bfloat16 has no NumPy dtype; its values are exact in float32.
        return (answer.float() if answer.dtype == torch.bfloat16 else answer).numpy()
    return sys.modules["cupy"].from_dlpack(answer)


def _stream_of(given: Any) -> AbstractContextManager[Any]:
    """Makes CuPy's current stream torch's, where `given` is a CuPy array."""
    if not is_cupy(given):
        return nullcontext()
    device = given.device.id
    with given.device:
        handle = sys.modules["cupy"].cuda.get_current_stream().ptr
    if handle == torch.cuda.current_stream(device).cuda_stream:
        return nullcontext()
    return torch.cuda.stream(_external(handle, device))


def _external(handle: int, device: int) -> torch.cuda.Stream:
    """The stream behind a handle of CuPy's."""
    if handle == 0:  # ExternalStream would create a new stream for 0
        return torch.cuda.default_stream(device)
    return torch.cuda.ExternalStream(handle, device)


def windows_as_tensors(op: str, value: Any) -> Any:
    """`value` with its arrays as tensors; anything but Windows is left to the op's check."""
    if not isinstance(value, Windows):
        return value
    origins, counts, num, _ = cast(tuple[object, ...], value)
    tensors = isinstance(origins, Tensor) and isinstance(num, Tensor)
    if tensors and isinstance(counts, Tensor) and _dense(origins) and _dense(num):
        return value
    return Windows(
        as_tensor(op, "windows.origins", value.origins),
        as_tensor(op, "windows.counts", value.counts),
        as_tensor(op, "windows.num", value.num),
        value.window,
    )


def _dense(value: Any) -> bool:
    return value.layout is torch.strided and not value.is_nested


def is_cupy(value: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)
