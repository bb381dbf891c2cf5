"""Who is timed: the eager reference, torch.compile of it, every backend that can run, and peers.

A way is a name; `call_of` turns a name and a case into a callable without arguments, so that
every timing times the same thing. "reference" is the shipped eager code through the public op;
"compiled" is torch.compile of the same function, called directly, at its best: see `_compiled`.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _backend, ops, reference
from ..reference.upsample import as_class_set, upsample_logits
from ..windows import Windows
from . import peers
from .inputs import MEAN, STD, Case
from .measure import Call

OPS = ("count_windows", "select_windows", "extract_patches", "aggregate")
EAGER = "reference"
COMPILED = "compiled"
# One upsampling of the logits for the whole glue, as a careful author of eager code would write it.
SHARED = "reference-shared"
# Backends that run natively on tensors of a device. Triton's interpreter, which could read host
# memory, shows nothing of a kernel's speed.
BACKENDS = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}
# Parts of the reference that loop over windows in Python, reading origins on the host.
_LOOPS = {
    "c2fcore.reference.aggregate": ("fine_foreground",),
    "c2fcore.reference.extract_patches": ("crops_of", "check_inside"),
}


class Job(NamedTuple):
    """A call to be timed, for one case.

    Attributes:
        op: one of OPS, or "glue": all of them, from coarse logits to labels.
        options: keyword arguments of the op, the same for every way.
    """

    op: str
    options: dict[str, Any]


def backends_of(op: str, device: str = "cpu") -> list[str]:
    """Backends of an op that can run on a device of this machine, without the reference."""
    names = OPS if op == "glue" else (op,)
    table = _backend.backends()
    return [
        backend
        for backend in BACKENDS[torch.device(device).type]
        if all(table[name][backend][0] for name in names)
    ]


def every() -> list[str]:
    """Every way that there is, of any op on any device."""
    return [EAGER, SHARED, COMPILED, *itertools.chain(*BACKENDS.values()), *peers.every()]


def names_of(op: str, device: str = "cpu") -> list[str]:
    """Every way to do an op that can run on a device of this machine."""
    extra = [SHARED] if op == "glue" else []
    return [EAGER, *extra, COMPILED, *backends_of(op, device), *peers.names_of(op)]


def call_of(job: Job, way: str, case: Case) -> Call:
    """A callable without arguments that does the job once.

    Raises:
        NotImplementedError: a peer that cannot do this job.
    """
    if way in peers.names_of(job.op):
        return peers.call_of(way, job.op, job.options, case)
    if job.op == "glue":
        return _glue(way, case)
    compiled = way == COMPILED
    classes: Any = as_class_set(case.small_classes) if compiled else case.small_classes
    arguments, options = _arguments(job, case, classes)
    if compiled:
        return functools.partial(_compiled(job.op), *arguments, **options)
    return functools.partial(getattr(ops, job.op), *arguments, **options, backend=way)


def foreign_call(job: Job, function: Callable[..., Any], case: Case) -> Call:
    """The job done by a function with the signature of the public op, less `backend`."""
    arguments, options = _arguments(job, case, case.small_classes)
    return functools.partial(function, *arguments, **{**defaults_of(job.op), **options})


def defaults_of(op: str) -> dict[str, Any]:
    """The options of a public op that have a default, less `backend`."""
    parameters = inspect.signature(getattr(ops, op)).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.name != "backend" and not p.name.startswith("_")
    }


def _arguments(job: Job, case: Case, classes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments and options of an op for a case."""
    grid: dict[str, Any] = {
        "window": case.windows.window,
        "stride": case.stride,
        "size": case.size,
        "edge": case.edge,
    }
    if job.op == "count_windows":
        return (case.logits, classes), {**grid, **job.options}
    if job.op == "select_windows":
        chosen = {"n": case.n, "strategy": case.strategy}
        return (case.logits, classes), {**grid, **chosen, **job.options}
    if job.op == "extract_patches":
        return (case.image, case.windows), {"mean": MEAN, "std": STD, **job.options}
    arguments = (case.logits, case.fine, case.windows, classes)
    return arguments, {"size": case.size, "rule": case.rule, **job.options}


@functools.lru_cache(maxsize=8)
def _compiled(op: str) -> Callable[..., Any]:
    """torch.compile of a reference function, the way it runs fastest.

    The loops over windows stay eager: unrolled by the compiler they take ten minutes to compile and
    run no faster. Shapes are specialised. Callers pass a ready class set, which traces; building
    one from ids does not.
    """
    for module, names in _LOOPS.items():
        for name in names:
            function = getattr(sys.modules[module], name)
            if not hasattr(function, "_torchdynamo_orig_callable"):
                setattr(sys.modules[module], name, torch.compiler.disable(function))
    return torch.compile(getattr(reference, op), dynamic=False)


def _glue(way: str, case: Case) -> Call:
    """Everything between and after the two networks, from coarse logits to labels.

    The fine network itself is left out: its answer to these windows is given.
    """
    grid: dict[str, Any] = {
        "window": case.windows.window,
        "stride": case.stride,
        "n": case.n,
        "strategy": case.strategy,
        "edge": case.edge,
    }
    look: dict[str, Any] = {"mean": MEAN, "std": STD}
    if way in (EAGER, SHARED, COMPILED):
        # Without the hand-over of labels: the reference has no use for it and would only copy.
        pick = _compiled if way == COMPILED else functools.partial(getattr, reference)
        select, extract, merge = (
            pick(op) for op in ("select_windows", "extract_patches", "aggregate")
        )
        classes = as_class_set(case.small_classes)

        def unfused() -> tuple[Windows, Tensor, Tensor]:
            logits = case.logits if way != SHARED else upsample_logits(case.logits, case.size)
            windows = select(logits, classes, size=case.size, **grid)
            patches = extract(case.image, windows, **look)
            merged = merge(logits, case.fine, windows, classes, size=case.size, rule=case.rule)
            return windows, patches, merged

        return unfused

    def fused() -> tuple[Windows, Tensor, Tensor]:
        options: dict[str, Any] = {"size": case.size, "backend": way}
        windows, labels = ops.select_windows(
            case.logits, case.small_classes, **grid, **options, _return_labels=True
        )
        patches = ops.extract_patches(case.image, windows, **look, backend=way)
        merged = ops.aggregate(
            case.logits,
            case.fine,
            windows,
            case.small_classes,
            rule=case.rule,
            **options,
            _labels=labels,
        )
        return windows, patches, merged

    return fused


def reset_compiler() -> None:
    """Forgets every compiled version, so that earlier cases do not count against the limits."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    _compiled.cache_clear()


def graph_breaks() -> int:
    """Graph breaks since `reset_compiler`."""
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def break_reasons() -> list[str]:
    """First line of the reason of each graph break since `reset_compiler`."""
    reasons = torch._dynamo.utils.counters["graph_break"]
    return [text.strip().splitlines()[0] for text in reasons]
