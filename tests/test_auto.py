"""What "auto" takes for tensors on a GPU, and why: backends of the test's stand for real ones."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_order
import pytest
import torch

import c2fcore
from c2fcore import _backend, _gpu_order, _self_check
from c2fcore._backend import Backend
from c2fcore.testing import samples

OP = "some_op"


class OnGpu:
    """As much of a CUDA tensor as the choice looks at."""

    is_cuda = True

    def __init__(self, elements: int = 1000, device: int = 0) -> None:
        self.elements, self.index = elements, device
        self.device = f"cuda:{device}"

    def get_device(self) -> int:
        return self.index

    def numel(self) -> int:
        return self.elements


class Bench:
    """Backends of one op that can run; what each comparison is to find, and what was compared."""

    def __init__(self) -> None:
        self.differs: dict[tuple[str, str], str] = {}  # (backend, device)
        self.compared: list[tuple[str, str]] = []
        self.missing: dict[str, str] = {}
        self.capturing = False

    def compare(self, op: str, backend: str, device: str) -> str:
        assert op == OP
        self.compared.append((backend, device))
        return self.differs.get((backend, device), "")

    def choose(self, tensor: Any, requested: str = "auto", grad: bool = False) -> str:
        return str(_backend.choose(OP, requested, tensor, grad)())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()

    def backend(name: str, gpu: bool = False) -> Backend:
        def why_not(tensor: Any, grad: bool) -> str:
            if gpu != tensor.is_cuda and name != "reference":
                return "takes other tensors"
            return "has no gradient" if grad and name != "reference" else ""

        return Backend(lambda: name, lambda: made.missing.get(name, ""), why_not, gpu)

    table = {name: backend(name, name in ("cuda", "triton")) for name in _backend.ORDER}
    monkeypatch.setattr(_backend, "_table", {OP: table})
    for module, held in (
        (_backend, "_missing"),
        (_self_check, "_found"),
        (_gpu_order, "_steps"),
    ):
        monkeypatch.setattr(module, held, {})
    monkeypatch.setattr(_backend, "_logged", set())
    monkeypatch.setattr(_backend, "_of_process", "auto")
    monkeypatch.setattr(_self_check, "compare", made.compare)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: made.capturing)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    return made


def test_one_that_agrees_is_taken_from_then_on(bench: Bench) -> None:
    assert [bench.choose(OnGpu()) for _ in range(3)] == ["cuda"] * 3
    assert bench.compared == [("cuda", "cuda:0")], "once; triton is not needed"
    assert c2fcore.backends()[OP]["cuda"] == (True, "")


def test_one_that_differs_is_passed_over(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.differs["cuda", "cuda:0"] = "sample s: Differs: 3 counts differ"
    with caplog.at_level(logging.WARNING, "c2fcore"):
        assert [bench.choose(OnGpu()) for _ in range(3)] == ["triton"] * 3
    assert bench.compared == [("cuda", "cuda:0"), ("triton", "cuda:0")]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("some_op: 'auto' passes over backend cuda on cuda:0 in this process: ")
    assert said.endswith("sample s: Differs: 3 counts differ")
    assert c2fcore.backends()[OP]["cuda"] == (True, "only by name: " + said.split("process: ")[1])
    assert bench.choose(OnGpu(), "cuda") == "cuda", "named, it runs"
    with c2fcore.use_backend("cuda"):
        assert bench.choose(OnGpu()) == "cuda"


def test_where_both_differ_the_reference_runs(bench: Bench) -> None:
    bench.differs = {("cuda", "cuda:0"): "a", ("triton", "cuda:0"): "b"}
    assert bench.choose(OnGpu()) == "reference"
    assert _backend.takes_reference(OP, "auto", OnGpu())  # type: ignore[arg-type]
    assert bench.choose(OnGpu(device=1)) == "cuda", "another device is asked for itself"
    assert not _backend.takes_reference(OP, "auto", OnGpu(device=1))  # type: ignore[arg-type]


def test_what_is_missing_is_not_compared(bench: Bench) -> None:
    bench.missing["cuda"] = "not built"
    assert bench.choose(OnGpu()) == "triton"
    assert bench.compared == [("triton", "cuda:0")]
    assert c2fcore.backends()[OP]["cuda"] == (False, "not built")


def test_cpu_tensors_never_meet_a_gpu_backend(bench: Bench) -> None:
    """Not even one that would read them, as an interpreter does."""
    willing = Backend(lambda: "willing", gpu=True)
    _backend._table[OP]["cuda"] = _backend._table[OP]["triton"] = willing
    bench.missing["triton"] = "asked"
    assert bench.choose(torch.zeros(1)) == "cpu"
    assert bench.choose(torch.zeros(1), grad=True) == "reference"
    assert bench.compared == []
    assert _backend._missing == {(OP, "cpu"): "", (OP, "reference"): ""}


def test_gradients_need_the_reference_and_no_comparison(bench: Bench) -> None:
    assert bench.choose(OnGpu(), grad=True) == "reference"
    assert bench.compared == []


def test_while_a_graph_is_captured(bench: Bench) -> None:
    """Nothing is compared then: the backend is taken unless it has differed before."""
    bench.capturing = True
    assert bench.choose(OnGpu()) == "cuda"
    assert bench.compared == []
    bench.capturing, bench.differs["cuda", "cuda:0"] = False, "wrong"
    assert bench.choose(OnGpu()) == "triton"
    bench.capturing = True
    assert bench.choose(OnGpu()) == "triton"
    assert len(bench.compared) == 2


def test_threads_wait_for_one_comparison(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = bench.compare

    def slow(op: str, backend: str, device: str) -> str:
        torch.rand(300, 300) @ torch.rand(300, 300)
        return quick(op, backend, device)

    monkeypatch.setattr(_self_check, "compare", slow)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: bench.choose(OnGpu()), range(32))) == {"cuda"}
    assert len(bench.compared) == 1


# Measured order. All figures here are made up.


def row(way: str, ms: float, **case: Any) -> dict[str, Any]:
    device = case.pop("device_name", "GPU 0")
    elements = case.pop("elements", 1000)
    full = {"op": OP, "device": "cuda", "dtype": "float32", "provider": way, **case}
    result = {"ms": [ms, ms, ms], "elements": elements}
    return {
        "suite": "op",
        "case": full,
        "result": result,
        "error": "",
        "origin": {"device": device},
    }


def test_order_of_rows() -> None:
    both = [row("cuda", 2.0), row("triton", 1.0), row("reference", 0.1)]
    assert gpu_order.make(both) == {"GPU 0": {OP: [[1000, "triton"]]}}
    assert gpu_order.make(both[:1]) == {}, "nothing to compare with"
    failed = {**row("triton", 1.0), "result": {}, "error": "RuntimeError: x"}
    assert gpu_order.make([both[0], failed]) == {}
    assert gpu_order.make([row("cuda", 2.0, device="cpu"), row("triton", 1.0, device="cpu")]) == {}
    assert gpu_order.make([row("cuda", 2.0, op="glue"), row("triton", 1.0, op="glue")]) == {}
    half = [row("cuda", 1.0, dtype="float16"), row("triton", 3.0, dtype="float16")]
    assert gpu_order.make(both + half) == {"GPU 0": {OP: [[1000, "cuda"]]}}, "2 x against 3 x"
    large = [row("cuda", 5.0, elements=9000), row("triton", 5.5, elements=9000)]
    other = [row("cuda", 3.0, device_name="GPU 1"), row("triton", 2.0, device_name="GPU 1")]
    assert gpu_order.make(large + other + both) == {
        "GPU 0": {OP: [[1000, "triton"], [9000, "cuda"]]},
        "GPU 1": {OP: [[1000, "triton"]]},
    }


def test_the_faster_one_comes_first(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = {"GPU 0": {OP: [[100, "triton"], [10_000, "cuda"]]}}
    (tmp_path / "order.json").write_text(gpu_order.text(order))
    monkeypatch.setattr(_gpu_order, "FILE", tmp_path / "order.json")
    _gpu_order._file.cache_clear()
    try:
        # A size belongs to the nearest one measured, by ratio.
        for elements, taken in ((0, "triton"), (999, "triton"), (1001, "cuda"), (10**9, "cuda")):
            assert bench.choose(OnGpu(elements)) == taken
        assert bench.choose(OnGpu(1, device=1)) == "cuda", "nothing measured on this one"
        bench.differs["triton", "cuda:0"] = "wrong"
        _self_check._found.clear()
        assert bench.choose(OnGpu(1)) == "cuda"
    finally:
        _gpu_order._file.cache_clear()


def test_the_committed_order_is_that_of_the_committed_rows() -> None:
    results = Path(gpu_order.__file__).parent / "results"
    if not results.exists():
        pytest.skip("the source tree is not here")
    assert json.loads(_gpu_order.FILE.read_text()) == gpu_order.make(gpu_order.read(results))


# The comparison itself, with the cpu backend in the place of one for GPUs.


@pytest.fixture
def cpu() -> None:
    if not c2fcore.backends()["aggregate"]["cpu"][0]:
        pytest.skip("no cpu backend")


def test_every_op_has_samples() -> None:
    assert set(_self_check.SAMPLES) == set(c2fcore.backends())
    assert set(_self_check.SAMPLES) == {*samples.OPS, "extract_patches_backward"}


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("op", _self_check.SAMPLES)
def test_a_right_backend_agrees(op: str) -> None:
    assert _self_check.compare(op, "cpu", "cpu") == ""


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("op", _self_check.SAMPLES)
def test_a_wrong_backend_differs(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = _backend._table[op]["cpu"].run

    def wrong(*args: Any) -> Any:
        answer = right(*args)
        first = answer if isinstance(answer, torch.Tensor) else answer[0]
        first.view(-1)[: first.numel() // 2] += 1
        return answer

    monkeypatch.setitem(_backend._table[op], "cpu", Backend(wrong))
    found = _self_check.compare(op, "cpu", "cpu")
    assert found.startswith(f"sample {_self_check.SAMPLES[op][0]}: Differs: "), found


@pytest.mark.usefixtures("cpu")
def test_a_backend_that_raises_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setitem(_backend._table["aggregate"], "cpu", Backend(broken))
    found = _self_check.compare("aggregate", "cpu", "cpu")
    assert found == "sample paper-labels-blobs: RuntimeError: CUDA error: an illegal memory access"


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("op", _self_check.SAMPLES)
def test_what_the_caller_has_set_does_not_matter(op: str) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
            assert _self_check.compare(op, "cpu", "cpu") == ""
    finally:
        torch.set_default_dtype(before)
