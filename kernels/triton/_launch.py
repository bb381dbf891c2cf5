"""What a launch is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Launch(NamedTuple):
    """One launch of one kernel.

    Attributes:
        kernel: the @triton.jit function.
        grid: number of programs.
        args: every argument by name: tensors, integers, floats; None for an absent tensor.
        constants: every constexpr by name.
        num_warps: warps per program.
    """

    kernel: Any
    grid: int
    args: dict[str, Any]
    constants: dict[str, Any]
    num_warps: int

    def run(self) -> None:
        """Enqueues it on the current stream of the current device."""
        self.kernel[(self.grid,)](**self.args, **self.constants, num_warps=self.num_warps)


def pow2(value: int) -> int:
    """Smallest power of two that is at least `value`."""
    return 1 << max(value - 1, 0).bit_length()


def ceil_div(value: int, by: int) -> int:
    """`value` / `by`, rounded up."""
    return -(-value // by)


def class_block(logits: Tensor) -> int:
    """The constexpr CLASS_BLOCK of `first_argmax` for these logits [B, N, h, w].

    Neighbouring classes are read as one load of up to 16 bytes per thread; maps whose classes lie
    apart are read class by class, neighbouring pixels together.
    """
    if logits.stride(1) != 1 or logits.stride(3) == 1 or logits.shape[1] < 4:
        return 0
    return min(pow2(logits.shape[1]), 16 // logits.element_size())
