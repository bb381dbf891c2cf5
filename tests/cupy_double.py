"""As much of CuPy as is looked at, on the memory of CPU tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import torch


class Array:
    """As much of a CuPy array as the ops look at, on the memory of a CPU tensor."""

    class device:
        id = 1

        def __enter__(self) -> None:
            CuPy.inside.append("device")

        def __exit__(self, *error: object) -> None:
            CuPy.inside.pop()

    device = device()  # type: ignore[assignment,misc]

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.memory.shape)

    @property
    def ndim(self) -> int:
        return self.memory.ndim

    def __getitem__(self, index: Any) -> Array:
        return Array(self.memory[index])

    def __dlpack__(self, **options: Any) -> Any:
        CuPy.seen.append(("in", *CuPy.inside))
        return self.memory.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.memory.__dlpack_device__()


class CuPy:
    """Stands for the module, and for torch's streams; keeps what was current at each step."""

    ndarray = Array
    inside: ClassVar[list[Any]] = []
    seen: ClassVar[list[tuple[Any, ...]]] = []
    current = 0

    @staticmethod
    def is_available() -> bool:
        return True

    class cuda:
        @staticmethod
        def Device(index: int) -> Any:
            assert index == Array.device.id
            return Array.device

        @staticmethod
        def get_current_stream() -> Any:
            assert CuPy.inside == ["device"], "the stream of the array's device"
            return SimpleNamespace(ptr=CuPy.current)

    @staticmethod
    def from_dlpack(tensor: torch.Tensor) -> Array:
        CuPy.seen.append(("out", *CuPy.inside))
        return Array(tensor)

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Any) -> Iterator[None]:
        CuPy.inside.append(stream)
        yield
        CuPy.inside.pop()
