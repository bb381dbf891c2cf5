"""What a build of a copy of the tree holds: sdist, wheel, C2F_BUILD; no torch headers.

Nothing is compiled here (C2F_BUILD=none, or no compiler to be found), so the file stays quick.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD_REQUIREMENTS = ("setuptools", "pybind11", "cmake", "ninja")
# Of the tree: what a build reads.
FOLDERS = ("c2fcore", "kernels", "csrc", "cmake", "tests", "benchmarks")
FILES = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE")

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the source tree is not here, only the tests"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with the leavings of an in-place build that must not be packed."""
    copy = tmp_path_factory.mktemp("tree")
    leavings = shutil.ignore_patterns("*.so", "*.pyd", "*.new", "__pycache__", "_build_info.py")
    for folder in FOLDERS:
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, copy / folder, ignore=leavings)
    for name in (*FILES, "CHANGELOG.md"):
        shutil.copy2(ROOT / name, copy / name)
    (copy / "c2fcore" / "_cpu_portable.so").write_bytes(b"stale")
    (copy / "c2fcore" / "_build_info.py").write_text("BUILT = {'cpu': (True, 'stale')}\n")
    return copy


def build(tree: Path, what: str, out: Path, *, path: str | None = None, **environment: str) -> str:
    """Builds `what` ("wheel" or "sdist") of `tree` into `out` through its PEP 517 hooks.

    Without isolation where the build requirements are installed: the hooks are then called as pip
    would call them, and nothing is downloaded. Returns the output; raises CalledProcessError.
    """
    out.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("C2F_BUILD", "CMAKE_ARGS", "CXX")}
    env.update(environment)
    if path is not None:
        env["PATH"] = path
    if all(importlib.util.find_spec(name) for name in BUILD_REQUIREMENTS):
        hook = f"import setuptools.build_meta as m, sys; m.build_{what}(sys.argv[1])"
        command = [sys.executable, "-c", hook, str(out)]
    elif what == "wheel":
        command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "-w", str(out), "."]
    else:
        pytest.skip("an sdist needs the build requirements (pip install 'c2fcore[dev]')")
    result = subprocess.run(
        command, cwd=tree, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if result.returncode != 0:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout)
    return result.stdout


def headers(root: Path) -> set[str]:
    kernels = root / "kernels"
    return {
        path.relative_to(kernels).as_posix()
        for pattern in ("*.h", "*.cuh")
        for path in kernels.rglob(pattern)
    }


def build_info(wheel: Path) -> dict[str, tuple[bool, str]]:
    with zipfile.ZipFile(wheel) as archive:
        names: dict[str, dict[str, tuple[bool, str]]] = {}
        exec(archive.read("c2fcore/_build_info.py").decode(), names)
    return names["BUILT"]


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build(tree, "wheel", out, C2F_BUILD="none")
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    build(tree, "sdist", out, C2F_BUILD="none")
    return next(out.glob("*.tar.gz"))


def test_wheel_without_native_modules_fits_every_platform(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert build_info(wheel)["cpu"] == (False, "C2F_BUILD=none leaves it out")


def test_wheel_contents(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
        entry_points = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert {f"c2fcore/kernels/{name}" for name in headers(tree)} <= names
    assert {"c2fcore/__init__.py", "c2fcore/kernels/__init__.py", "c2fcore/py.typed"} <= names
    assert {"c2fcore/gpu_order.json", "c2fcore/kernels/cuda/nvrtc/cstdint"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyd"))]
    assert {name.split("/")[0] for name in names} <= {"c2fcore", metadata.split("/")[0]}
    weights = tree / "c2fcore" / "weights"
    shipped = {p.relative_to(tree).as_posix() for p in weights.rglob("*.*") if p.is_file()}
    assert {name for name in shipped if "__pycache__" not in name} <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert re.search(r"^License(-Expression)?: Apache-2.0$", text, re.MULTILINE)
    assert "c2f = c2fcore.cli:main" in entry_points


def test_every_python_file_is_packed(tree: Path, wheel: Path) -> None:
    """A folder without an __init__.py is silently left out of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {p.relative_to(tree).as_posix() for p in (tree / "c2fcore").rglob("*.py")}
    sources |= {
        "c2fcore/" + p.relative_to(tree).as_posix() for p in (tree / "kernels").rglob("*.py")
    }
    assert sources - names <= {"c2fcore/_build_info.py"}


def test_sdist_contents(tree: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"kernels/{name}" for name in headers(tree)} <= names
    for folder in ("csrc", "cmake"):
        sources = (path for path in (tree / folder).rglob("*") if path.is_file())
        assert {path.relative_to(tree).as_posix() for path in sources} <= names
    assert {*FILES, "CHANGELOG.md", "c2fcore/py.typed"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyd", "_build_info.py"))]
    assert not [name for name in names if name.split("/")[0] in ("tests", "benchmarks", "build")]


def test_wheel_from_sdist_equals_wheel_from_tree(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        # No filter= before Python 3.10.12; the archive is our own.
        archive.extractall(tmp_path)
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    build(unpacked, "wheel", tmp_path / "out", C2F_BUILD="none")
    with (
        zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))) as ours,
        zipfile.ZipFile(wheel) as theirs,
    ):
        assert set(ours.namelist()) == set(theirs.namelist())


def test_unknown_choice_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        build(tree, "wheel", tmp_path, C2F_BUILD="nonsense")
    assert "C2F_BUILD must be one of auto, none, cpu, cuda, got 'nonsense'" in failure.value.output


def test_cuda_without_nvcc(tree: Path, tmp_path: Path) -> None:
    """Demanded, it fails with the reason; whatever else the machine can compile."""
    nothing = tmp_path / "bin"
    nothing.mkdir()
    with pytest.raises(subprocess.CalledProcessError) as failure:
        build(
            tree,
            "wheel",
            tmp_path / "out",
            path=str(nothing),
            C2F_BUILD="cuda",
            CXX="c++",
            **dict.fromkeys(("CUDACXX", "CUDA_HOME", "CUDA_PATH"), ""),
        )
    assert "C2F_BUILD=cuda: no nvcc was found (on PATH, " in failure.value.output


@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_without_a_compiler(choice: str, tree: Path, tmp_path: Path) -> None:
    """auto installs pure Python and keeps the reason; cpu fails with it."""
    nothing = tmp_path / "bin"
    nothing.mkdir()
    out = tmp_path / "out"
    if choice == "auto":
        output = build(tree, "wheel", out, path=str(nothing), C2F_BUILD="auto")
        assert "cpu backend not built: no C++ compiler was found" in output
        assert build_info(next(out.glob("*.whl")))["cpu"] == (False, "no C++ compiler was found")
    else:
        with pytest.raises(subprocess.CalledProcessError) as failure:
            build(tree, "wheel", out, path=str(nothing), C2F_BUILD="cpu")
        assert "C2F_BUILD=cpu: no C++ compiler was found" in failure.value.output


def test_a_compiler_that_fails_leaves_its_reason(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(tree, "wheel", out, C2F_BUILD="auto", CXX=str(tmp_path / "no-such-compiler"))
    wheel = next(out.glob("*.whl"))
    built, reason = build_info(wheel)["cpu"]
    assert not built
    assert reason.startswith("CMake could not configure the build: ")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]


def test_installed_package_knows_its_build() -> None:
    from c2fcore import _build_info

    assert set(_build_info.BUILT) == {"cpu", "cuda"}
    for built, reason in _build_info.BUILT.values():
        assert built == (not reason)


def test_kernels_are_importable() -> None:
    import c2fcore.kernels

    assert list(Path(c2fcore.kernels.__file__).parent.glob("common/*.h"))


def test_native_sources_are_free_of_torch() -> None:
    include = re.compile(r'#\s*include\s*[<"](torch|ATen|c10)\b')
    sources = [
        path
        for folder in ("kernels", "csrc")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".h", ".cuh", ".cpp", ".cu")
    ]
    assert sources
    assert not [str(path) for path in sources if include.search(path.read_text(encoding="utf-8"))]
