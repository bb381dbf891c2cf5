"""Build of c2fcore: pure Python plus whatever native modules this machine can compile.

CMakeLists.txt says how the modules are made; the command below configures, builds and places
them. C2F_BUILD=auto|none|cpu|cuda chooses (default auto: what compiles is taken, the reason for the
rest is kept in c2fcore/_build_info.py; cuda means the cpu backend, too). CMAKE_ARGS is handed to
cmake as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
CHOICES = ("auto", "none", "cpu", "cuda")
CHOICE = os.environ.get("C2F_BUILD") or "auto"
if CHOICE not in CHOICES:
    raise SystemExit(f"C2F_BUILD must be one of {', '.join(CHOICES)}, got {CHOICE!r}")

# File names of each backend's modules. _cuda_jit needs no more than a C++ compiler, as cpu's do.
MODULES = {"cpu": ("_cpu_*", "_cuda_jit*"), "cuda": ("_cuda_prebuilt*",)}
LIBRARY_SUFFIXES = (".so", ".pyd")
WANTED_BY = {"cpu": ("auto", "cpu", "cuda"), "cuda": ("auto", "cuda")}


class BuildError(Exception):
    """One backend cannot be built; the text is the reason users will read."""


class build_native(Command):
    """Compiles the native modules with CMake, and records why those left out were."""

    description = "compile c2fcore's native modules with CMake"
    user_options = [
        ("inplace", "i", "put the modules into the source tree"),
        ("build-lib=", "b", "directory for the compiled modules"),
        ("build-temp=", "t", "directory for CMake's files"),
    ]
    boolean_options = ["inplace"]

    def initialize_options(self) -> None:
        self.inplace = False
        self.editable_mode = False  # set by setuptools for PEP 660 installs
        self.build_lib: str | None = None
        self.build_temp: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options(
            "build", ("build_lib", "build_lib"), ("build_temp", "build_temp")
        )
        self.inplace = self.inplace or self.editable_mode
        if self.inplace:  # kept between builds: only what changed is compiled again
            wanted = f"{os.environ.get('CXX', '')} {os.environ.get('CMAKE_ARGS', '')}"
            tag = f"{sys.implementation.cache_tag}-{zlib.crc32(wanted.encode()):08x}"
            self.build_temp = str(ROOT / "build" / f"native-{tag}")

    def run(self) -> None:
        self.target.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(Path(self.build_temp)):
            built = {backend: self._build(backend) for backend in ("cuda", "cpu")}
        self._write_build_info(built)

    def _build(self, backend: str) -> tuple[bool, str]:
        """Builds one backend; a failure becomes the reason in auto mode, else ends the build."""
        placed: list[str] = []
        try:
            if CHOICE not in WANTED_BY[backend]:
                raise BuildError(f"C2F_BUILD={CHOICE} leaves it out")
            placed = self._compile(backend)
            return True, ""
        except BuildError as error:
            if CHOICE in WANTED_BY[backend] and CHOICE != "auto":
                raise SystemExit(f"C2F_BUILD={CHOICE}: {error}") from None
            if CHOICE == "auto":
                print(f"c2fcore: {backend} backend not built: {error}")
            return False, str(error)
        finally:
            # A module of an earlier build must not outlive the answer recorded for this one.
            for old in self._modules(backend):
                if old.name not in placed:
                    old.unlink()

    def _compile(self, backend: str) -> list[str]:
        cmake, environment = _find_cmake()
        if "CXX" not in os.environ and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise BuildError("no C++ compiler was found")
        if backend == "cuda" and not (nvcc := _find_nvcc(environment)):
            raise BuildError("no nvcc was found (on PATH, or by CUDACXX, CUDA_HOME or CUDA_PATH)")
        tree, out = (Path(self.build_temp) / f"{folder}-{backend}" for folder in ("cmake", "out"))
        options = [
            f"-DC2F_BACKEND={backend}",
            *([f"-DCMAKE_CUDA_COMPILER={nvcc}"] if backend == "cuda" else []),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={_pybind11_dir()}",
            "-DCMAKE_INSTALL_MESSAGE=NEVER",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        # Cached paths may be of another environment: every isolated build has its own cmake.
        ninja = shutil.which("ninja", path=environment["PATH"]) or ""
        said = (os.environ.get(name, "") for name in ("CXX", "CUDAARCHS"))
        key = "\n".join([cmake, ninja, *options, *said])
        key_file = tree.with_suffix(".txt")
        if not key_file.exists() or key_file.read_text() != key:
            shutil.rmtree(tree, ignore_errors=True)
            if ninja:
                options.append("-GNinja")
            configure = [cmake, "-S", str(ROOT), "-B", str(tree), *options]
            _run(configure, environment, "CMake could not configure the build")
            key_file.write_text(key)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        _run(
            [cmake, "--build", str(tree), "--parallel", jobs],
            environment,
            f"the {backend} sources did not compile",
        )
        shutil.rmtree(out, ignore_errors=True)
        _run([cmake, "--install", str(tree), "--prefix", str(out)], environment, "install failed")
        built = sorted((out / "c2fcore").iterdir())
        for module in built:
            # Renamed into place: a process that has the old file mapped keeps it unharmed.
            arriving = self.target / f"{module.name}.new"
            shutil.copy2(module, arriving)
            arriving.replace(self.target / module.name)
        return [module.name for module in built]

    def _write_build_info(self, built: dict[str, tuple[bool, str]]) -> None:
        lines = [
            '"""Backends in this build: name -> (built, why not). Written by setup.py."""',
            "",
            "BUILT: dict[str, tuple[bool, str]] = {",
            *(f"    {backend!r}: {answer!r}," for backend, answer in built.items()),
            "}",
            "",
        ]
        self._build_info.write_text("\n".join(lines), encoding="utf-8")

    @property
    def target(self) -> Path:
        return (ROOT if self.inplace else Path(self.build_lib)) / "c2fcore"

    @property
    def _build_info(self) -> Path:
        return self.target / "_build_info.py"

    def _modules(self, backend: str) -> list[Path]:
        found = [path for name in MODULES[backend] for path in self.target.glob(name)]
        return sorted(path for path in found if path.suffix in LIBRARY_SUFFIXES)

    # What setuptools asks of a part of `build`.

    def _placed(self) -> list[Path]:
        return [self._build_info, *(path for backend in MODULES for path in self._modules(backend))]

    def get_source_files(self) -> list[str]:
        return []  # MANIFEST.in names them

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / "c2fcore" / path.name) for path in self._placed()]

    def get_output_mapping(self) -> dict[str, str]:
        if not self.inplace:
            return {}
        return dict(zip(self.get_outputs(), map(str, self._placed())))


class build_with_native(build):
    sub_commands = [*build.sub_commands, ("build_native", None)]


class NativeDistribution(Distribution):
    """Tags the wheel for the platform unless nothing native was asked for."""

    def has_ext_modules(self) -> bool:
        return CHOICE != "none"


def _find_cmake() -> tuple[str, dict[str, str]]:
    """cmake, and an environment whose PATH has ninja: the first found on PATH, else PyPI's."""
    path = os.environ.get("PATH", os.defpath)
    for module, attribute in (("cmake", "CMAKE_BIN_DIR"), ("ninja", "BIN_DIR")):
        if shutil.which(module, path=path) is None:
            with contextlib.suppress(ImportError):
                path += os.pathsep + str(getattr(__import__(module), attribute, ""))
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        raise BuildError("no cmake was found")
    return cmake, {**os.environ, "PATH": path}


def _find_nvcc(environment: dict[str, str]) -> str:
    """nvcc, "" where there is none."""
    named = environment.get("CUDACXX", "")
    homes = [environment.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [environment["PATH"], *(str(Path(home) / "bin") for home in homes if home)]
    return shutil.which(named or "nvcc", path=os.pathsep.join(places)) or ""


def _pybind11_dir() -> str:
    try:
        import pybind11
    except ImportError:
        raise BuildError("pybind11 is not installed in the build environment") from None
    return str(pybind11.get_cmake_dir())


def _run(command: list[str], environment: dict[str, str], failure: str) -> None:
    """Runs a step with its output shown; a failure becomes one line with the first error in it."""
    lines = []
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as step:
        for line in step.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    if step.returncode != 0:
        raise BuildError(f"{failure}: {_first_error(lines)}")


def _first_error(lines: list[str]) -> str:
    lines = [line for line in lines if line]
    for number, line in enumerate(lines):
        if re.match(r"CMake Error at ", line):  # the sentence stands on the next line
            return " ".join(lines[number + 1 : number + 2]) or line
        if re.search(r"\berror\b[: ]", line, re.IGNORECASE):
            return line
    return lines[-1] if lines else "no output"


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Two builds in one tree (an editor's and a terminal's) wait for each other."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        with contextlib.suppress(ImportError):  # no fcntl on Windows
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


setup(
    # Stated here, not in pyproject.toml: setuptools before 77 refuses the SPDX string there, newer
    # ones are to drop the table that came before it.
    license="Apache-2.0",
    # kernels/ stands beside c2fcore/ in the source tree and is installed as c2fcore.kernels.
    package_dir={"c2fcore": "c2fcore", "c2fcore.kernels": "kernels"},
    packages=[
        *find_packages(include=["c2fcore", "c2fcore.*"]),
        "c2fcore.kernels",
        *(f"c2fcore.kernels.{name}" for name in find_packages("kernels")),
    ],
    # Only what is named: modules of an earlier in-place build must not slip into a wheel.
    include_package_data=False,
    package_data={
        "c2fcore": [
            "py.typed",
            "gpu_order.json",
            "weights/**/*",
            "train/configs/**/*",
            "evaluation/paper.json",
        ],
        "c2fcore.kernels": ["**/*.h", "**/*.cuh", "cuda/nvrtc/*"],
    },
    cmdclass={"build": build_with_native, "build_native": build_native},
    distclass=NativeDistribution,
)
