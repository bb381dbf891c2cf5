"""What a launch is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

# Kernels count within an image in 32 bits, and up to a block past the last one.
MOST_ALONG = (1 << 30) - 1  # pixels along an axis; slots: two numbers belong to each
MOST_NUMBERED = (1 << 31) - (1 << 12)  # windows, bins
MOST_RESIZED = 1 << 22  # pixels along an axis: float32 positions skip some beyond 2^23
MOST_PROGRAMS = (1 << 31) - 1


class Launch(NamedTuple):
    """One launch of one kernel.

    Attributes:
        kernel: the @triton.jit function.
        grid: number of programs.
        args: every argument by name: tensors, integers, floats, tuples of numbers, named or not;
            None for an absent tensor.
        constants: every constexpr by name.
        num_warps: warps per program.
        max_registers: per thread. Without a limit ptxas sometimes spills a few registers to fit
            one more program on a multiprocessor; with one, it uses all that the limit allows.
    """

    kernel: Any
    grid: int
    args: dict[str, Any]
    constants: dict[str, Any]
    num_warps: int
    max_registers: int = 255

    def run(self) -> None:
        """Enqueues the launch on the current stream of the current device."""
        if self.grid > MOST_PROGRAMS:
            raise NotImplementedError(
                f"backend 'triton' launches at most {MOST_PROGRAMS} programs, got {self.grid} of "
                f"{self.kernel.__name__}; 'reference' can run this"
            )
        values = {**self.args, **self.constants}
        # By position: by name, Python took up to 10 us longer to match them.
        ordered = [values[name] for name in self.kernel.arg_names]
        self.kernel[(self.grid,)](*ordered, **self.options())

    def options(self) -> dict[str, int]:
        """What the compiler is told."""
        return {"num_warps": self.num_warps, "maxnreg": self.max_registers}


def lacking(op: str, taken: str, got: object) -> NotImplementedError:
    """The error for a valid call that these kernels cannot run; `taken` says what they can."""
    return NotImplementedError(
        f"{op}: backend 'triton' takes {taken}, got {got}; 'reference' can run this"
    )


def require_image(op: str, height: int, width: int, n: int = 0) -> None:
    """The pixels along each axis of an image, and its `n` windows, can be numbered."""
    if max(height, width) > MOST_ALONG:
        raise lacking(op, f"images of at most {MOST_ALONG} pixels a side", f"{height} x {width}")
    if n > MOST_ALONG:
        raise lacking(op, f"at most {MOST_ALONG} windows per image", n)


def require_resized(op: str, what: str, before: Sequence[int], after: Sequence[int]) -> None:
    """The sides of `what`, if it is resized, are short enough for float32 positions."""
    if max(*before, *after) > MOST_RESIZED and tuple(before) != tuple(after):
        rule = f"at most {MOST_RESIZED} pixels a side of resized {what}"
        raise lacking(op, rule, f"{before[0]} x {before[1]} to {after[0]} x {after[1]}")


def pow2(value: int) -> int:
    """Smallest power of two that is at least `value`."""
    return 1 << max(value - 1, 0).bit_length()


def ceil_div(value: int, by: int) -> int:
    """`value` / `by`, rounded up."""
    return -(-value // by)


def lanes_of_row(row: int) -> int:
    """Lanes that cut a row of outputs into blocks with little left over."""
    for lanes in (512, 256, 128):
        if ceil_div(row, lanes) * lanes <= row + row // 8:
            return lanes
    return min(pow2(row), 128)


def strides_of(name: str, tensor: Tensor, axes: Sequence[str]) -> dict[str, int]:
    """Arguments <name>_stride_<axis> of a tensor, in elements."""
    return {
        f"{name}_stride_{axis}": stride for axis, stride in zip(axes, tensor.stride(), strict=True)
    }


def class_block(logits: Tensor) -> int:
    """The constexpr CLASS_BLOCK of `first_argmax` for these logits [B, N, h, w].

    Where neighbouring classes are neighbours in memory and every pixel starts at a multiple of so
    many elements, 8 or 16 bytes of them are one load of one thread. Other maps are read class by
    class, neighbouring pixels together; 0 says so.
    """
    stride_b, stride_n, stride_y, stride_x = logits.stride()
    if stride_n != 1 or stride_x == 1:
        return 0
    size = logits.element_size()
    for block in (16 // size, 8 // size):
        starts = (logits.shape[1], stride_b, stride_y, stride_x, logits.data_ptr() // size)
        if all(start % block == 0 for start in starts):
            return block
    return 0


def column_block(logits: Tensor) -> int:
    """The constexpr COLUMN_BLOCK of `agreed_labels` for these logits [B, N, h, w].

    How many neighbouring pixels of a row a thread reads in one load: two if they are neighbours in
    memory and every second one starts at an even element.
    """
    starts = (*logits.stride()[:3], logits.shape[3], logits.data_ptr() // logits.element_size())
    return 2 if logits.stride(3) == 1 and all(start % 2 == 0 for start in starts) else 1
