"""Which backend runs: the table, the three ways to choose, and refusals with their reason."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_bits, call, flat

import c2fcore
from c2fcore import _backend, _native, ops
from c2fcore.testing import samples, tolerances
from c2fcore.testing.samples.inputs import windows_of

OPS = samples.OPS
FIRST = {op: samples.of(op)[0] for op in OPS}
SEG = torch.zeros(1, 8, 8, dtype=torch.uint8)


def _count(**options: Any) -> torch.Tensor:
    counted: torch.Tensor = ops.count_windows(SEG, (1,), window=4, stride=4, **options)
    return counted


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the backends that count_windows is run with, in order of the calls."""
    from c2fcore import _backend

    seen: list[str] = []
    table = _backend._table["count_windows"]
    for name, entry in list(table.items()):

        def run(*args: Any, _name: str = name, _run: Any = entry.run) -> Any:
            seen.append(_name)
            return _run(*args)

        copy = type(entry)(**{**vars(entry), "run": run})
        monkeypatch.setitem(table, name, copy)
    return seen


def test_table() -> None:
    table = c2fcore.backends()
    assert set(OPS) <= set(table)
    assert list(table) == sorted(table)
    for op, entries in table.items():
        assert entries["reference"] == (True, ""), op
        assert {"reference", "cpu", "triton", "cuda"} <= set(entries)
        for name, (ok, reason) in entries.items():
            assert isinstance(ok, bool)
            assert ok or reason.strip(), f"{op}/{name} is missing without a reason"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["reference", "cpu", "triton", "cuda"])
def test_explicit_choice_runs_or_raises_with_the_reason(op: str, name: str) -> None:
    ok, reason = c2fcore.backends()[op][name]
    if ok:
        device = "cuda" if name in ("triton", "cuda") and torch.cuda.is_available() else "cpu"
        call(op, FIRST[op], name, device)
        return
    with pytest.raises(RuntimeError, match=rf"^{op}: .*{name}") as caught:
        call(op, FIRST[op], name)
    assert reason in str(caught.value)
    with c2fcore.use_backend(name), pytest.raises(RuntimeError, match=name):
        call(op, FIRST[op], "auto")


def test_ways_to_choose(chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The call's argument, the innermost use_backend, C2F_BACKEND, the fastest, in this order."""
    monkeypatch.setattr(_backend, "_of_process", "auto")
    _count()
    fastest = "cpu" if c2fcore.backends()["count_windows"]["cpu"][0] else "reference"
    assert chosen == [fastest]
    chosen.clear()
    with c2fcore.use_backend("reference"):
        _count()
        with c2fcore.use_backend("auto"):
            _count()
        _count()
    assert chosen == ["reference", fastest, "reference"]
    chosen.clear()
    monkeypatch.setattr(_backend, "_of_process", "reference")
    _count()
    with c2fcore.use_backend(fastest):
        _count()
        _count(backend="reference")
    assert chosen == ["reference", fastest, "reference"]


def test_use_backend_ends_with_its_block(chosen: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), c2fcore.use_backend("reference"):
        raise ZeroDivisionError
    _count()
    assert chosen[-1] == ("cpu" if c2fcore.backends()["count_windows"]["cpu"][0] else "reference")


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of .*'auto'.*got 'avx512'"):
        _count(backend="avx512")
    refused = pytest.raises(ValueError, match=r"backend must be one of .*got 'avx512'")
    with refused, c2fcore.use_backend("avx512"):
        pass
    monkeypatch.setattr(_backend, "_of_process", "-".join(("avx", "512")))
    with pytest.raises(ValueError, match=r"windows: C2F_BACKEND must be one .*got 'avx-512'"):
        _count()


_OF_PROCESS = """
import os, torch
for wanted in ("reference", ""):
    if not os.fork():
        os.environ["C2F_BACKEND"] = wanted
        import c2fcore
        print(c2fcore._backend._of_process, flush=True)
        os._exit(0)
    os.wait()
"""


def test_backend_of_the_process(tmp_path: Path) -> None:
    """C2F_BACKEND is read when c2fcore is imported."""
    done = _python(_OF_PROCESS, tmp_path)
    assert done.stdout.split() == ["reference", "auto"], done.stderr


def test_valid_cases_that_a_backend_lacks() -> None:
    """NotImplementedError names a backend that can; "auto" finds it by itself."""
    if not c2fcore.backends()["extract_patches"]["cpu"][0]:
        pytest.skip("no cpu backend")
    windows = windows_of([[(0, 0)]], 4)
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match=r"^extract_patches: .*cpu.*float64.*reference"):
        ops.extract_patches(image, windows, backend="cpu")
    assert ops.extract_patches(image, windows).dtype == torch.float64


def test_devices_that_differ() -> None:
    other = windows_of([[(0, 0)]], 4, device="meta")
    with pytest.raises(
        ValueError, match=r"^extract_patches: windows\.\w+ must be on the same device"
    ):
        ops.extract_patches(torch.zeros(1, 1, 8, 8), other)
    # num alone elsewhere: the kernel would read a foreign address.
    mixed = windows_of([[(0, 0)]], 4)._replace(num=other.num)
    with pytest.raises(
        ValueError, match=r"^extract_patches: windows\.\w+ must be on the same device"
    ):
        ops.extract_patches(torch.zeros(1, 1, 8, 8), mixed)


def test_a_backend_passed_over_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert logging.getLogger("c2fcore").level == logging.NOTSET  # the user's to set
    monkeypatch.setattr(_backend, "_logged", set())
    windows = windows_of([[(0, 0)]], 4)
    with caplog.at_level(logging.INFO, "c2fcore"):
        for _ in range(3):
            ops.extract_patches(torch.rand(1, 3, 8, 8, dtype=torch.float64), windows)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("extract_patches: backend cpu passed over: ")


def _python(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a fresh process, outside the repository: its root shadows the package."""
    folder = os.path.dirname(__file__)
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": folder, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


_ANSWERS = """
import torch
from c2fcore import _native
from c2fcore.testing import samples
from compare import call
print(_native.cpu().module.__name__)
answers = {op: {s.name: call(op, s, "cpu") for s in samples.of(op)} for op in samples.OPS}
torch.save(answers, "answers.pt")
"""


def test_portable_and_vector_builds_agree(tmp_path: Path) -> None:
    """The same sources compiled with and without AVX2: integers equal, floats to rounding."""
    module = _native.cpu().module
    if module is None or module.__name__ != "c2fcore._cpu_avx2":
        pytest.skip("needs the build for AVX2, and a processor that has it")
    done = _python(_ANSWERS, tmp_path, C2F_CPU_ISA="portable")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["c2fcore._cpu_portable"]
    found = torch.load(tmp_path / "answers.pt", weights_only=False)
    for op in OPS:
        for sample in samples.of(op):
            both = found[op][sample.name], call(op, sample, "cpu")
            for a, b in zip(*(flat([answer]) for answer in both), strict=True):
                assert_same_build(a, b)


def assert_same_build(a: torch.Tensor, b: torch.Tensor) -> None:
    if not a.is_floating_point() or a.numel() == 0:
        assert_same_bits(a, b)
        return
    finite = a.isfinite()
    assert torch.equal(finite, b.isfinite())
    assert_same_bits(a[~finite].nan_to_num(7.0), b[~finite].nan_to_num(7.0))
    eps = max(torch.finfo(a.dtype).eps, tolerances.EPS32)
    largest = a[finite].abs().double().max() if finite.any() else 0.0
    error = (a[finite].double() - b[finite].double()).abs()
    assert (error <= tolerances.BUILD_ULPS * eps * max(float(largest), 1e-30)).all()


def test_unknown_isa_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("C2F_CPU_ISA", "sse9")
    with pytest.raises(ValueError, match="C2F_CPU_ISA must be auto, portable or avx2, got 'sse9'"):
        _native.cpu.__wrapped__()


def test_completion_knows_what_is_imported_late() -> None:
    assert set(c2fcore.__all__) <= set(dir(c2fcore))
