"""One job done in several ways, timed in turn after their answers have been compared."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from .. import _errors
from ..windows import Windows
from . import measure, parity, peers, ways
from .inputs import Case
from .measure import Call
from .ways import COMPILED, EAGER, Job


@dataclasses.dataclass
class Contest:
    """Samples of the same job, done in several ways.

    Attributes:
        times: seconds per call, a list of samples per way; samples of one round belong together.
        failures: why a way was not timed.
        errors: how far each way's answer is from the reference's.
        graph: graph breaks of torch.compile and their reasons, if it took part.
    """

    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    graph: dict[str, Any] = dataclasses.field(default_factory=dict)
    calls: dict[str, Call] = dataclasses.field(default_factory=dict)

    def ms(self) -> dict[str, list[float]]:
        """Median, 20th and 80th percentile of each way, milliseconds."""
        return {
            way: [round(1e3 * t, 4) for t in measure.spread(times)]
            for way, times in self.times.items()
        }


def hold(
    job: Job,
    case: Case,
    names: list[str],
    rounds: int,
    *,
    target_s: float = 0.05,
    device: str = "cpu",
    foreign: dict[str, Callable[..., Any]] | None = None,
    compared: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Contest:
    """Times a job done in several ways; one that fails or answers otherwise is left out, and why.

    Args:
        job: the job.
        case: its inputs, on `device`.
        names: of ways, or of `foreign` functions.
        rounds: samples of each way.
        target_s: see `measure.interleaved`.
        device: where the work is done.
        foreign: further ways, functions with the signature of the op.
        compared: whether answers are; not where the reference does not fit.
        say: told what is going on.
    """
    found = Contest()
    wanted = ways.call_of(job, EAGER, case)() if compared else None
    for way in names:
        say(f"{job.op}: {way}, first call")
        try:
            if way == COMPILED:
                ways.reset_compiler()
            if foreign and way in foreign:
                given = copy.deepcopy(case)  # others get inputs that it cannot write into
                call = ways.foreign_call(job, foreign[way], given)
            else:
                given, call = case, ways.call_of(job, way, case)
            got = call()
            if compared:
                found.errors[way] = checked(job, way, case, got, wanted)
            del got
            if not _same(given, case):
                raise parity.Disagreement(f"{job.op}: it wrote into its input")
            if way == COMPILED:
                call()  # a second call may compile once more
                found.graph["graph_breaks"] = ways.graph_breaks()
                found.graph["graph_break_reasons"] = ways.break_reasons()
            found.calls[way] = call
        except (Exception, SystemExit) as error:  # whatever it is becomes a row
            found.failures[way] = _errors.reason(error)
    del wanted
    if found.calls:
        say(f"{job.op}: {rounds} rounds of {', '.join(found.calls)}")
        found.times = measure.interleaved(
            found.calls,
            rounds,
            target_s=target_s,
            device=device,
            failed=lambda way, error: found.failures.update({way: _errors.reason(error)}),
        )
    return found


def _same(one: Case, other: Case) -> bool:
    return one is other or all(
        torch.equal(a, b)
        for a, b in zip(
            (one.logits, one.image, one.fine, *one.windows[:3]),
            (other.logits, other.image, other.fine, *other.windows[:3]),
            strict=True,
        )
    )


def checked(job: Job, way: str, case: Case, got: Any, wanted: Any) -> float:
    """How far a way's answer is from the reference's.

    Raises:
        parity.Disagreement: too far.
    """
    zoom = job.options.get("zoom", 1)
    if job.op == "select_windows":
        got = Windows(*got)  # a foreign function may answer with a tuple of its own
    beyond = way in peers.READS_BEYOND and zoom > 1
    return parity.max_error(
        job.op,
        got,
        wanted,
        case.pixels,
        rim=round(zoom) if beyond else 0,
        float_error=parity.PEER_ERROR if way in peers.names_of(job.op) else parity.FLOAT_ERROR,
    )
