"""CUDA graphs: how a lane's programs are captured, and what a failed capture leaves behind."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from .programs import FRAME, NETWORK, OWN, Body, Recorder, T, capturing

# Conditional nodes came with CUDA 12.4. torch captures them since 2.12, but at first on streams of
# the pool that lanes take theirs from: another lane's work could have been captured in a branch.
_CONDITIONAL_DRIVER: Final = 12040
_CONDITIONAL_TORCH: Final = "2.14"

# Free memory required, in multiples of what the rehearsal took: other sizes and lanes need some.
_ROOM: Final = 2

# Graphs whose capture failed. torch's pinned-memory allocator never stops asking them whether they
# are capturing, and would read freed memory if they were destroyed.
_failed: Final[list[torch.cuda.CUDAGraph]] = []


class CudaGraphs(Recorder):
    """Programs as CUDA graphs on the stream of a lane, where they never run together."""

    graphs = True

    def __init__(self, device: torch.device, stream: torch.cuda.Stream, glue: bool) -> None:
        self.glue = glue
        self._device = device
        self._stream = stream
        self._pools = {memory: torch.cuda.graph_pool_handle() for memory in (FRAME, NETWORK)}

    def capture(self, body: Body[T], memory: str) -> tuple[Callable[[], None], T]:
        """The graph's replay, to be called on the lane's stream, and its outputs."""
        if memory == OWN:
            self._pools[OWN] = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating and waiting: only this one's calls are restricted.
        recorded = torch.cuda.graph(
            graph,
            pool=self._pools[memory],
            stream=self._stream,
            capture_error_mode="thread_local",
        )
        with capturing, _no_collection(), torch.cuda.device(self._device):
            self.recording = True
            first: list[BaseException] = []  # ending a failed capture raises another error
            try:
                with recorded, _own_workspaces():
                    try:
                        outputs = body()
                    except BaseException as error:
                        first.append(error)
                        raise
            except BaseException as error:
                self._leave(graph, memory)
                raise (first or [error])[0] from None
            finally:
                self.recording = False
        return graph.replay, outputs

    def rehearse(self, parts: Sequence[Body[Any]]) -> None:
        """Captures each part in memory of its own, and sees what all take beside each other."""
        needed = 0
        for part in parts:
            held = self.capture(part, OWN)
            segments = torch.cuda.memory_snapshot(self._pools[OWN])
            needed += sum(segment["total_size"] for segment in segments)
            del held
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        allowed = torch.cuda.get_per_process_memory_fraction(self._device) * total
        free = min(free, int(allowed) - torch.cuda.memory_reserved(self._device))
        if free < _ROOM * needed:
            raise RuntimeError(
                f"its parts take {needed / 2**30:.2f} GiB beside each other, and of "
                f"{free / 2**30:.2f} GiB that are free at most {1 / _ROOM:.0%} are taken"
            )

    def _leave(self, graph: torch.cuda.CUDAGraph, memory: str) -> None:
        """Ends whatever a failed capture has left behind."""
        torch.cuda.set_stream(self._stream)  # a conditional node's may still be current
        if torch.cuda.is_current_stream_capturing():
            with suppress(RuntimeError):  # raises the capture's failure again
                graph.capture_end()
            self.lost = torch.cuda.is_current_stream_capturing()
        if self.lost:
            return  # what is left of the capture goes with the graph
        # torch 2.11's allocator believes that the capture is still under way: it frees nothing that
        # several streams have used, and admits no other capture to that memory.
        with suppress(RuntimeError):  # it had ended properly
            torch._C._cuda_endAllocateToPool(self._device.index, self._pools[memory])  # type: ignore[attr-defined,unused-ignore]
            _failed.append(graph)
        self._pools[memory] = torch.cuda.graph_pool_handle()
        # So does the random number generator, which refuses to work until a capture succeeds.
        again = torch.cuda.graph(
            torch.cuda.CUDAGraph(), stream=self._stream, capture_error_mode="thread_local"
        )
        with suppress(RuntimeError), again:
            torch.zeros(1, device=self._device)

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """A conditional node while capturing; a decision on the host otherwise."""
        if not self.recording:
            super().when(condition, body)
            return
        graph: Any = torch.cuda.CUDAGraph.get_currently_capturing_graph()  # type: ignore[attr-defined,unused-ignore]
        graph.begin_capture_to_if_node(condition)
        try:
            body()
        except BaseException:
            with suppress(RuntimeError):  # the first error is the one to report
                graph.end_capture_to_conditional_node()
            raise
        graph.end_capture_to_conditional_node()


def no_conditional_nodes() -> str:
    """Why CUDA graphs cannot branch here, "" if they can."""
    if TorchVersion(torch.__version__) < _CONDITIONAL_TORCH:
        return f"torch {torch.__version__} does not capture conditional nodes safely, 2.14 does"
    driver = _driver_version()
    if driver < _CONDITIONAL_DRIVER:
        return f"the driver knows CUDA {driver // 1000}.{driver % 1000 // 10}, 12.4 is needed"
    allocator = torch.cuda.get_allocator_backend()
    if allocator != "native":
        return f"branches cannot allocate with {allocator}, which is PyTorch's allocator here"
    return ""


def _driver_version() -> int:
    """As the driver itself tells, 12040 for CUDA 12.4; 0 without one. No torch function does."""
    version = ctypes.c_int(0)
    with suppress(OSError):
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """Inside a capture: its cuBLAS calls work on memory of the graph, nobody else's do afterwards.

    torch keeps one workspace for a stream. That of the calls before a capture would be all graphs'
    of a lane, and its later versions free it at the end of any of them (pytorch issue 193402): the
    others would go on writing to memory that is something else by then.
    """
    torch._C._cuda_clearCublasWorkspaces()  # type: ignore[attr-defined,unused-ignore]
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()  # type: ignore[attr-defined,unused-ignore]


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside, which may destroy graphs and free pinned memory."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
