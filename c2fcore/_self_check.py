"""Whether "auto" may take a GPU backend: once it agrees with the reference on this very device.

The kernels are tested without a GPU and on few with one. So the first time "auto" would take a
backend of an op on a device, the backend answers a few of the shipped samples there, and has to
agree with the reference on the CPU. One that does not is passed over in this process, with a
warning; it can still be named. What this cannot survive is a kernel that breaks the CUDA context
itself: every later call on the GPU then fails, and naming another backend is the way out.
"""

from __future__ import annotations

import logging
import math
import threading

import torch
from torch import Tensor

from ._errors import reason

_log = logging.getLogger("c2fcore")

# Few, because nearly each one compiles a kernel of its own. Together they cover labels and logits,
# full size and upsampled, integer and float images, both outputs, and overlapping windows.
SAMPLES = {
    "count_windows": ("labels-uint8-strided", "logits-x4-ties", "logits-f16-channels_last"),
    "select_windows": ("cover-clusters", "top-mixed-batch", "cover-logits-blobs"),
    "extract_patches": ("normalised", "uint16-zoom-1", "out-channels_last-f16"),
    "extract_patches_backward": ("float32-zoom-2",),
    "extract_targets": ("int64-ignore-100", "num-0-and-full"),
    "aggregate": ("paper-labels-blobs", "normalized-probs-overlaps", "official-labels-blobs"),
}

_found: dict[tuple[str, str, int], str] = {}
_lock = threading.Lock()


def why_not(op: str, backend: str, device: int) -> str:
    """Why "auto" passes over a backend of an op on a device, "" if it may take it."""
    found = _found.get((op, backend, device))
    return _decide(op, backend, device) if found is None else found


def refused(op: str, backend: str) -> str:
    """What was found against a backend of an op so far, "" if nothing."""
    against = [why for key, why in _found.items() if key[:2] == (op, backend) and why]
    return f"only by name: {against[0]}" if against else ""


def _decide(op: str, backend: str, device: int) -> str:
    if torch.cuda.is_current_stream_capturing():
        # Nothing can be read back, and so compared, while a graph is captured. The reference
        # synchronises, which would break the capture; the backend at least may succeed.
        return ""
    with _lock:  # one thread compares, others wait for its answer
        key = (op, backend, device)
        if key not in _found:
            _log.info("%s: comparing backend %s with the reference on cuda:%d", op, backend, device)
            why = compare(op, backend, f"cuda:{device}")
            if why:
                text = "%s: 'auto' passes over backend %s on cuda:%d in this process: %s"
                _log.warning(text, op, backend, device, why)
            _found[key] = why
        return _found[key]


def compare(op: str, backend: str, device: str) -> str:
    """How a backend differs from the reference on the samples of an op, "" if it agrees."""
    found: list[str] = []

    def run() -> None:
        for name in SAMPLES[op]:
            try:
                _compare(op, name, backend, device)
            except Exception as error:  # of any kind: a backend that raises is refused
                found.append(f"sample {name}: {reason(error)}")
                return

    # A thread of its own: without the caller's stream, autocast, modes, and default device.
    thread = threading.Thread(target=run, name=f"c2fcore check of {op}")
    thread.start()
    thread.join()
    return found[0] if found else ""


def _compare(op: str, name: str, backend: str, device: str) -> None:
    from . import ops  # they import this module, and the samples import them
    from .testing import agree, samples, tolerances

    if op == "extract_patches_backward":
        got, want = _gradient(name, backend, device), _gradient(name, "reference", "cpu")
        largest = want.abs().max().item()
        agree.assert_close(got, want, tolerances.GRADIENT_ULPS * tolerances.EPS32 * largest)
        return
    sample, run = samples.get(op, name), getattr(ops, op)
    got = run(*sample.args(device), **sample.options, backend=backend)
    want = run(*sample.args(), **sample.options, backend="reference")
    if isinstance(got, Tensor):
        got = got.cpu()
    else:
        got = type(got)(*(part.cpu() for part in got[:3]), got.window)
    agree.assert_agrees(op, sample, got, want)


def _gradient(name: str, backend: str, device: str) -> Tensor:
    """Of the image of a sample, by the op itself.

    Not by autograd: its one thread of a device may be the one that waits for this.
    """
    from .testing import samples

    sample = samples.get("extract_patches", name)
    image, windows = sample.args(device)
    side, patches = round(windows.window * sample.options["zoom"]), windows.counts.numel()
    shape = (patches, image.shape[1], side, side)
    grad = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float32, device=device).view(shape)
    where = (windows.origins, windows.num, windows.window)
    backward = torch.ops.c2fcore.extract_patches_backward
    found: Tensor = backward(grad, image, *where, "bilinear", 1.0, None, backend)
    return found.cpu()
