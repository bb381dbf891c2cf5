"""The speed demands made of a backend, measured in one run and printed as a table.

    python benchmarks/demands.py                        on a quiet machine, some minutes
    python benchmarks/demands.py --size 256 --large 512 --rounds 3      does it run at all?
    python benchmarks/demands.py --out benchmarks/results/DEVICE/demands.jsonl

Every ratio is the median of the ratios of samples taken in turn, with the same number of threads on
both ways (measure.py). Eager is the shipped reference, compiled is torch.compile of it
(ways.py). One JSON object per demand, each with its provenance; a failure is a row, too.
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from c2fcore import _errors
from c2fcore._progress import Bar
from c2fcore.bench import (
    engine_suite,
    inputs,
    measure,
    memory,
    network_suite,
    parity,
    rows,
    tables,
    ways,
)
from c2fcore.bench.contest import hold
from c2fcore.bench.lists import words
from c2fcore.bench.peers import LOOP, UNFOLD
from c2fcore.bench.provenance import device_slug, provenance
from c2fcore.bench.tiny import tiny_calls
from c2fcore.bench.ways import COMPILED, EAGER, SHARED, Job

SIZE, LARGE = 1024, 6000


@dataclass
class Plan:
    """What a run measures, and how long."""

    backend: str
    threads: int
    rounds: int
    size: int
    large: int
    target_s: float
    say: Callable[[str], None] = lambda text: None


@dataclass
class Outcome:
    """One measured demand.

    Attributes:
        value: the figure to hold against the bound.
        low: 20th percentile.
        high: 80th percentile.
        detail: times of the ways and whatever explains them.
        error: why there is no figure.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Demand:
    """A figure to be reached: at least `bound` if `unit` is "x", a ratio; at most, otherwise.

    It is judged on images of `side` only, or on any if that is None.
    """

    name: str
    text: str
    bound: float
    unit: str = "x"
    side: int | None = SIZE

    def met(self, value: float) -> bool:
        return value >= self.bound if self.unit == "x" else value <= self.bound


class Contest:
    """A job done in several ways, and the demands answered with it."""

    def __init__(self, plan: Plan, job: Job, case: inputs.Case, names: list[str]) -> None:
        held = hold(job, case, names, plan.rounds, target_s=plan.target_s, say=plan.say)
        self.failures, self.times = held.failures, held.times
        self.detail = {
            "content": case.source,
            "max_error": held.errors,
            **held.graph,
            "ms": held.ms(),
        }

    def ratio(self, slow: list[str], fast: str) -> Outcome:
        """How much faster `fast` is than the fastest of `slow`, round by round."""
        missing = [way for way in (*slow, fast) if way in self.failures]
        if missing:
            return Outcome(detail=self.detail, error=f"{missing[0]}: {self.failures[missing[0]]}")
        best = [min(times) for times in zip(*(self.times[s] for s in slow), strict=True)]
        return Outcome(*measure.ratio(best, self.times[fast]), self.detail)


def count(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """count_windows from realistic logits, and from noise."""
    job = Job("count_windows", {})
    case = inputs.make_case(plan.size)
    contest = Contest(plan, job, case, [EAGER, COMPILED, plan.backend])
    yield "count-eager", contest.ratio([EAGER], plan.backend)
    yield "count-compiled", contest.ratio([COMPILED], plan.backend)
    noise = inputs.make_case(plan.size, content="noise")
    yield (
        "count-noise",
        Contest(plan, job, noise, [EAGER, plan.backend]).ratio([EAGER], plan.backend),
    )


def merge(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """aggregate to labels and to scores."""
    case = inputs.make_case(plan.size)
    labels = Contest(plan, Job("aggregate", {}), case, [EAGER, COMPILED, plan.backend])
    yield "labels-eager", labels.ratio([EAGER], plan.backend)
    yield "labels-compiled", labels.ratio([COMPILED], plan.backend)
    job = Job("aggregate", {"output": "probs"})
    probs = Contest(plan, job, case, [EAGER, plan.backend])
    yield "probs-eager", probs.ratio([EAGER], plan.backend)


def select(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """The time of the choice of windows against the time of counting, on the large image."""
    case = inputs.make_case(plan.large)
    calls = {}
    for op in ("count_windows", "select_windows"):
        plan.say(f"{op} at {plan.large}: reference, for comparison")
        calls[op] = ways.call_of(Job(op, {}), plan.backend, case)
        wanted = ways.call_of(Job(op, {}), EAGER, case)()
        parity.max_error(op, calls[op](), wanted, case.truth.numel())
    plan.say(f"select_windows at {plan.large}: {plan.rounds} rounds")
    times = measure.interleaved(calls, plan.rounds, target_s=plan.target_s)
    counting, whole = times["count_windows"], times["select_windows"]
    detail = {
        "content": case.source,
        "ms": {op: [round(1e3 * t, 4) for t in measure.spread(t_op)] for op, t_op in times.items()},
    }
    choice = [(w - c) / c for w, c in zip(whole, counting, strict=True)]
    yield "select-choice", Outcome(*measure.spread(choice), detail)
    yield "select-whole", Outcome(*measure.ratio(whole, counting), detail)


def extract(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """Patches at zoom 2, uint8 to normalised float32."""
    job = Job("extract_patches", {"zoom": 2})
    contest = Contest(plan, job, inputs.make_case(plan.size), [LOOP, EAGER, plan.backend])
    yield "extract-loop", contest.ratio([LOOP], plan.backend)


def glue(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """Select, extract, aggregate; eager with and without sharing the upsampled logits."""
    case = inputs.make_case(plan.size)
    contest = Contest(plan, Job("glue", {}), case, [EAGER, SHARED, plan.backend])
    yield "glue-eager", contest.ratio([EAGER, SHARED], plan.backend)
    authors = inputs.make_case(plan.size, preset="official")
    contest = Contest(plan, Job("glue", {}), authors, [UNFOLD, plan.backend])
    yield "glue-unfold", contest.ratio([UNFOLD], plan.backend)


def glue_memory(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """Extra memory of the glue on the large image, in per cent of the thriftier eager way's."""
    found = {}
    for way in (EAGER, SHARED, plan.backend):
        plan.say(f"memory of the glue at {plan.large}: {way}")
        found[way] = memory.extra_mib(
            "c2fcore.bench.memory:glue_call", plan.threads, {"way": way, "size": plan.large}
        )
    share = 100 * found[plan.backend] / min(found[EAGER], found[SHARED])
    detail = {"extra_mib": {way: round(mib, 1) for way, mib in found.items()}}
    yield "glue-memory", Outcome(share, share, share, detail)


def overhead(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """Whole calls on 16 x 16 pixels, kernel included; beside them calls on an empty batch.

    torch.neg on four numbers, measured in turn with each, says what a call costs on this machine at
    that moment: processors that are shared are not always equally fast.
    """
    empty = tiny_calls(plan.backend, batch=0)
    negated = functools.partial(torch.neg, torch.zeros(4))
    for name, call in tiny_calls(plan.backend).items():
        plan.say(f"overhead of {name}")
        try:
            yardstick: list[float] = []
            between = functools.partial(_timed, negated, yardstick)
            times = measure.overhead(call, blocks=plan.rounds, tick=between)
            blocks = [1e6 * t for t in times]
            torch_neg_us = round(1e6 * measure.spread(yardstick).median, 3)
            detail = {"min_us": round(min(blocks), 3), "torch_neg_us": torch_neg_us}
            idle = measure.overhead(empty[name], blocks=plan.rounds)
            detail["empty_batch_us"] = round(1e6 * measure.spread(idle).median, 3)
            yield f"overhead {name}", Outcome(*measure.spread(blocks), detail)
        except Exception as error:  # the other ops are still worth measuring
            yield f"overhead {name}", Outcome(error=_errors.reason(error))


def _timed(call: Callable[[], Any], into: list[float]) -> None:
    into.append(measure.per_call(call, measure.OVERHEAD_CALLS))


def engine(plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """A frame of the engine, FCN-HRNetW18 twice: its glue, and what it costs above the networks."""
    spec = network_suite.Spec(
        "fcn_hrnet_w18",
        "fcn_hrnet_w18",
        plan.size,
        plan.size,
        preset="fast",
        threads=plan.threads,
    )
    found = engine_suite.measure_engine(spec, plan.rounds, plan.say)
    times, cpu, outside = found.pop("times"), found.pop("cpu"), found.pop("outside")
    glue = [100 * share for share in found.pop("glue")]
    for unit, of_ways in (("ms", times), ("cpu_ms", cpu)):
        found[unit] = {
            way: [round(1e3 * t, 4) for t in measure.spread(samples)]
            for way, samples in of_ways.items()
        }
    found["least_ms"] = {way: round(1e3 * min(samples), 4) for way, samples in times.items()}
    yield "engine-glue", Outcome(*measure.spread(glue), found)
    yield "engine-above", Outcome(*measure.spread(engine_suite.above(times)), found)
    yield "engine-outside", Outcome(*measure.spread(outside), found)
    yield "engine-above-cpu", Outcome(*measure.spread(engine_suite.above(cpu)), found)
    yield "engine-noise", Outcome(*measure.spread(engine_suite.noise(times)), found)


def sections(plan: Plan) -> dict[Callable[[Plan], Iterator[tuple[str, Outcome]]], list[Demand]]:
    """Every measurement and the demands that it answers, in the order they are told."""
    s, g, b = f"{plan.size}^2", f"{plan.large}^2", plan.backend
    return {
        count: [
            Demand("count-eager", f"count_windows {s}: {b} over eager", 20),
            Demand("count-compiled", f"count_windows {s}: {b} over torch.compile", 6),
            Demand("count-noise", f"count_windows {s}, noise: {b} over eager", 5),
        ],
        merge: [
            Demand("labels-eager", f"aggregate to labels {s}: {b} over eager", 40),
            Demand("labels-compiled", f"aggregate to labels {s}: {b} over torch.compile", 10),
            Demand("probs-eager", f"aggregate to probs {s}: {b} over eager", 4),
        ],
        select: [
            Demand(
                "select-choice",
                f"select cover {g}, less counting, of count_windows",
                1,
                "of",
                LARGE,
            ),
            Demand(
                "select-whole", f"select cover {g}, whole call, of count_windows", 1, "of", LARGE
            ),
        ],
        extract: [Demand("extract-loop", f"extract zoom 2 {s}: {b} over F.interpolate loop", 3)],
        glue: [
            Demand("glue-eager", f"whole glue {s}: {b} over the faster eager", 30),
            Demand("glue-unfold", f"whole glue {s}, official: {b} over unfold", 50),
        ],
        glue_memory: [
            Demand("glue-memory", f"whole glue {g}: extra memory, of eager's", 5, "%", LARGE)
        ],
        engine: [
            Demand("engine-glue", f"engine, HRNet-W18 {s}: glue, of the frame", 1, "%"),
            Demand("engine-above", f"engine, HRNet-W18 {s}: above its networks alone", 2, "%"),
            Demand("engine-outside", f"engine, HRNet-W18 {s}: outside its networks", 2, "%"),
            Demand("engine-above-cpu", f"engine, HRNet-W18 {s}: the same, processor time", 2, "%"),
            Demand("engine-noise", f"engine, HRNet-W18 {s}: networks, of themselves", 2, "%"),
        ],
        overhead: [
            Demand(f"overhead {name}", f"per call, 16^2: {name}", 12, "us", None)
            for name in tiny_calls(plan.backend)
        ],
    }


def run(plan: Plan, only: list[str]) -> Iterator[tuple[Demand, Outcome]]:
    """Measures; every demand gets an outcome, whatever goes wrong."""
    chosen = {
        section: demands
        for section, demands in sections(plan).items()
        if not only or section.__name__ in only
    }
    with Bar(total=sum(map(len, chosen.values())), unit="demand") as bar:
        plan.say = bar.set_description_str
        for section, demands in chosen.items():
            waiting = {demand.name: demand for demand in demands}
            reason = "not measured"
            try:
                for name, outcome in section(plan):
                    yield waiting.pop(name), outcome
                    bar.update()
            except Exception as error:  # a failure is a row, not the end of the run
                reason = _errors.reason(error)
            for demand in waiting.values():
                yield demand, Outcome(error=reason)
                bar.update()


def row_of(demand: Demand, outcome: Outcome, plan: Plan, origin: dict[str, Any]) -> dict[str, Any]:
    """One line of the results file. `met` is None where there is nothing to judge."""
    measured_at = {SIZE: plan.size, LARGE: plan.large, None: None}[demand.side]
    judged = outcome.value is not None and measured_at == demand.side
    return {
        "demand": demand.name,
        "text": demand.text,
        "bound": demand.bound,
        "unit": demand.unit,
        "value": outcome.value,
        "p20": outcome.low,
        "p80": outcome.high,
        "met": demand.met(outcome.value) if judged else None,
        "error": outcome.error,
        "detail": outcome.detail,
        "backend": plan.backend,
        "rounds": plan.rounds,
        "size": plan.size,
        "large": plan.large,
        **origin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of every way (default 2)")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each way (default 15)")
    parser.add_argument("--target", type=float, default=0.05, help="seconds per sample, at least")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the usual image")
    parser.add_argument("--large", type=int, default=LARGE, help="side of the large image")
    parser.add_argument("--only", default="", help="sections, as count,merge,glue_memory")
    parser.add_argument("--out", type=Path, help="file of JSON lines, replaced if it is there "
                        "(with --only, its rows); or the folder of one per device")  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module=r"torch\..*")
    plan = Plan(args.backend, args.threads, args.rounds, args.size, args.large, args.target)
    only = words(args.only)
    known = [section.__name__ for section in sections(plan)]
    if unknown := set(only) - set(known):
        parser.error(f"--only takes {', '.join(known)}, got {', '.join(sorted(unknown))}")
    origin = provenance(args.threads)
    measured = [row_of(demand, outcome, plan, origin) for demand, outcome in run(plan, only)]
    print(tables.demands(measured))
    print(
        f"{origin['device']}, {args.threads} threads, load {origin['load']} at the start", end="; "
    )
    print(f"results belong under benchmarks/results/{device_slug()}")
    if args.out is not None and args.out.is_dir():
        args.out = args.out / device_slug() / "demands.jsonl"
    if args.out is not None:
        replaced = " (replaced)" if args.out.exists() else ""
        (rows.merge if only else rows.write)(args.out, measured)
        print(f"{len(measured)} rows in {args.out}{replaced}")
    sys.exit(1 if any(row["error"] for row in measured) else 0)


if __name__ == "__main__":
    main()
