"""The kernels compiled when they are first needed, on a machine without a GPU.

NVRTC compiles for GPUs that are not here; what it makes is kept and found again. A few kernels are
compiled always, C2F_NVRTC=all compiles every one for every architecture (1 to 10 seconds each).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from c2fcore import _cuda, _native, _nvrtc
from c2fcore._nvrtc import Kernel

pytestmark = pytest.mark.skipif(bool(_cuda.on_host()), reason="the emulator takes its place")

SM = (80, 90)
# Quick ones of every header, and the kernel with the most to it; (architecture, beginning of name).
SOME = [
    (80, "windows_kernel<uint8_t, 0"),
    (90, "windows_kernel<F16, 16, CellKind::kUpsampled"),
    (80, "extract_patches_kernel<uint8_t, 2>"),
    (90, "extract_patches_kernel<BF16, 4>"),
    (90, "extract_patches_backward_kernel<F16, 2>"),
    (80, "extract_targets_kernel<int64_t>"),
    (90, "aggregate_labels_kernel<float, 2, LabelKind::kUpsampled>"),
    (80, "aggregate_labels_kernel<BF16, 16, LabelKind::kUpsampled>"),
    (80, "aggregate_probs_kernel<2>"),
]


@pytest.fixture(scope="module")
def module() -> Any:
    """The glue without kernels."""
    loaded, reason = _native.load("_cuda_jit", "cpu")
    if loaded is None:
        assert reason.startswith("not built"), "what is built has to load"
        pytest.skip(reason)
    return loaded


@pytest.fixture
def nvrtc() -> Any:
    cuda = pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
    return cuda.nvrtc


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("C2F_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of kernels/ to edit."""
    copy = tmp_path / "kernels"
    shutil.copytree(_nvrtc._kernels(), copy, ignore=shutil.ignore_patterns("triton", "cpu"))
    monkeypatch.setattr(_nvrtc, "_kernels", lambda: copy)
    return copy


def kernel(module: Any, beginning: str) -> Kernel:
    return next(k for k in map(Kernel._make, module.kernels()) if k.name.startswith(beginning))


# Compiling.


def cases() -> list[Any]:
    if os.environ.get("C2F_NVRTC") != "all":
        return [pytest.param(sm, name, id=f"{sm}-{name}") for sm, name in SOME]
    loaded = _native.load("_cuda_jit", "cpu").module
    every = loaded.kernels() if loaded else []
    return [pytest.param(sm, name, id=f"{sm}-{name}") for _, name, _ in every for sm in SM]


@pytest.mark.slow
@pytest.mark.parametrize(("sm", "name"), cases())
def test_compiles(
    sm: int,
    name: str,
    module: Any,
    nvrtc: Any,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a warning, and with the argument of the size that the module hands over."""
    found = kernel(module, name)
    with caplog.at_level(logging.INFO, "c2fcore"):
        lowered, code = _nvrtc.compiled(found, sm)
    assert found.name.split("<")[0] in lowered
    assert code.startswith(b"\x7fELF")
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{found.op}: compiling {found.name} for sm_{sm}, once; takes seconds"]


def test_what_does_not_compile_says_so(module: Any, nvrtc: Any, cache: Path, sources: Path) -> None:
    broken = sources / "cuda" / "extract_targets.cuh"
    broken.write_text(broken.read_text() + "\nnonsense;\n")
    found = kernel(module, "extract_targets_kernel<uint8_t>")
    with pytest.raises(RuntimeError, match=r"^extract_targets: NVRTC cannot compile .*sm_90") as no:
        _nvrtc.compiled(found, 90)
    assert "extract_targets.cuh(" in str(no.value)
    assert "nonsense" in str(no.value)
    assert not list(cache.glob("*"))


def test_an_argument_of_another_size_is_refused(module: Any, nvrtc: Any, cache: Path) -> None:
    """A struct edited without building the module again."""
    found = kernel(module, "extract_targets_kernel<uint8_t>")
    with pytest.raises(RuntimeError, match="another size than in module _cuda_jit"):
        _nvrtc.compiled(found._replace(bytes=found.bytes + 8), 90)


def test_a_gpu_that_nvrtc_does_not_know(
    module: Any, nvrtc: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PTX of the last architecture before it."""
    monkeypatch.setattr(nvrtc, "getSupportedArchs", lambda: (80, 90), raising=False)
    assert [_nvrtc._target(sm) for sm in (80, 89, 90, 100)] == [
        "sm_80",
        "compute_80",
        "sm_90",
        "compute_90",
    ]
    _, code = _nvrtc.compiled(kernel(module, "extract_targets_kernel<uint8_t>"), 100)
    assert b".target sm_90" in code


# What is kept.


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that NVRTC was asked for; it answers at once."""
    seen: list[str] = []

    def quick(kernel: Kernel, target: str) -> tuple[str, bytes]:
        seen.append(f"{kernel.name} {target}")
        return f"_{kernel.name}", b"code\nof " + target.encode()

    monkeypatch.setattr(_nvrtc, "_compile", quick)
    return seen


ANY = Kernel("windows", "windows_kernel<float, 0, CellKind::kOwnSize>", 512)


def test_compiled_once(nvrtc: Any, cache: Path, compilations: list[str]) -> None:
    first = _nvrtc.compiled(ANY, 90)
    assert _nvrtc.compiled(ANY, 90) == first == (f"_{ANY.name}", b"code\nof sm_90")
    assert len(compilations) == 1
    for other in (ANY._replace(bytes=8), ANY._replace(name="windows_kernel<float, 2>")):
        _nvrtc.compiled(other, 90)
    _nvrtc.compiled(ANY, 80)
    assert len(compilations) == 4
    assert len(list(cache.iterdir())) == 4, "one file each, and nothing half written"


@pytest.mark.parametrize(
    "edited",
    ["common/bilinear.h", "cuda/windows.cuh", "cuda/windows_args.h", "cuda/nvrtc/cstdint"],
)
def test_an_edited_header_is_compiled_again(
    edited: str, nvrtc: Any, cache: Path, sources: Path, compilations: list[str]
) -> None:
    _nvrtc.compiled(ANY, 90)
    path = sources / edited
    before = path.read_text()
    path.write_text(before + "// edited\n")
    _nvrtc.compiled(ANY, 90)
    assert len(compilations) == 2
    path.write_text(before)
    _nvrtc.compiled(ANY, 90)
    assert len(compilations) == 2, "the first one is still there"


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 200])
def test_a_damaged_file_is_compiled_again(
    damage: bytes, nvrtc: Any, cache: Path, compilations: list[str]
) -> None:
    want = _nvrtc.compiled(ANY, 90)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for content in (damage, whole[:-1], whole[:-1] + b"?"):
        file.write_bytes(content)
        assert _nvrtc.compiled(ANY, 90) == want
        assert file.read_bytes() == whole
    assert len(compilations) == 4


def test_what_was_not_used_for_long_is_dropped(
    nvrtc: Any, cache: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [ANY._replace(bytes=size) for size in (8, 16, 24)]
    for kernel in others:
        _nvrtc.compiled(kernel, 90)
    old, read, recent = (_nvrtc._path(kernel, "sm_90") for kernel in others)
    mine = cache / "notes.bin"
    mine.write_text("mine")
    (cache / ("windows-" + "0" * 64 + ".bin")).symlink_to("nowhere")  # just removed by another
    long_ago = time.time() - _nvrtc._KEPT_SECONDS - 60
    for path in (old, read, mine):
        os.utime(path, (long_ago, long_ago))
    _nvrtc.compiled(others[1], 90)  # used: as good as new
    _nvrtc.compiled(ANY, 90)
    assert not old.exists()
    assert read.exists()
    assert recent.exists()
    assert mine.exists()
    assert len(compilations) == 4

    monkeypatch.setattr(_nvrtc, "_KEPT_FILES", 2)
    os.utime(read, (time.time() - 60,) * 2)
    os.utime(recent, (time.time() - 30,) * 2)
    os.utime(_nvrtc._path(ANY, "sm_90"), (time.time() - 15,) * 2)
    _nvrtc.compiled(others[0], 90)
    assert old.exists()
    assert _nvrtc._path(ANY, "sm_90").exists()
    assert not read.exists()
    assert not recent.exists()


def test_nowhere_to_keep_it(
    nvrtc: Any, tmp_path: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("C2F_CACHE_DIR", str(tmp_path / "file"))
    assert _nvrtc.compiled(ANY, 90) == _nvrtc.compiled(ANY, 90)
    monkeypatch.delenv("C2F_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert _nvrtc.compiled(ANY, 90)
    assert len(compilations) == 3


def test_what_a_full_disk_stopped_does_not_stay(
    nvrtc: Any, tmp_path: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("C2F_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "replace", full)
    assert _nvrtc.compiled(ANY, 90)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
