"""Backends as parameters, required backends, poisoned memory, paths of shared data."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Waiting threads sleep instead of spinning: on a machine that has other work, spinning makes small
# parallel loops a hundred times slower. To be set before torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from availability import ABSENT, required, state
from photos import draw
from scenes_on_disk import make_net
from squares import square_tiles
from train_runs import coarse

from c2fcore import Engine, _triton
from c2fcore.cli import main

if _triton.interpreted():
    import interpreter_fma  # noqa: F401  (patches the interpreter)

# Background jobs of a shell are born deaf to Ctrl-C, and so are their children; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ORDER = ("reference", "cpu", "triton", "cuda")
GARBAGE = 0xCD
M_PERTURB = -6  # of glibc's mallopt


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=[],
        help="test only this backend (may be repeated); an op's tests of no backend are left out",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with a `backend` argument run on every backend of the module's op (its constant OP).

    A backend that no version has yet is left out; one that exists but cannot run here is skipped.
    Tests that compare with the reference, all of a module with AGAINST_REFERENCE, leave that out.
    """
    if "backend" not in metafunc.fixturenames:
        return
    op = metafunc.module.OP
    compares = getattr(metafunc.module, "AGAINST_REFERENCE", False)
    compares = compares or metafunc.function.__name__ == "test_same_as_reference"
    wanted = metafunc.config.getoption("--backend") or ORDER
    names = [
        name
        for name in ORDER
        if name in wanted
        and not (name == "reference" and compares)
        and (name in required() or state(op, name)[1] != ABSENT)
    ]
    metafunc.parametrize("backend", names, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --backend, of the ops only what is of a backend; files with slow tests start first.

    So none of these is left over where pytest-xdist shares files out.
    """
    if config.getoption("--backend"):
        items[:] = [i for i in items if "backend" in i.fixturenames or not hasattr(i.module, "OP")]
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend that can run here."""
    name: str = request.param
    ok, reason = state(request.module.OP, name)
    if not ok and name in required():
        pytest.fail(f"C2F_REQUIRE={name}, but {reason}")
    if not ok:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.fixture
def device(backend: str) -> str:
    """Where this backend's tensors live: a GPU for the GPU backends, if there is one.

    Without a GPU, triton runs in its interpreter on CPU tensors.
    """
    gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    return "cuda" if gpu else "cpu"


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        fresh = allocate(*args, **kwargs)
        if fresh.is_meta or type(fresh) is not torch.Tensor:
            return fresh
        if fresh.dtype.is_floating_point:
            return fresh.fill_(float("nan"))
        if fresh.dtype == torch.bool:
            return fresh.fill_(True)
        # No two beside each other are equal: as ends of a range they would say that it is empty.
        count = torch.arange(fresh.numel(), device=fresh.device).view(fresh.shape)
        return fresh.copy_(count % (256 - GARBAGE) + GARBAGE)

    return poisoned


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh memory holds NaN or 0xCD and more instead of lucky zeros, so an unwritten output fails.

    That of the native modules' small outputs, too, which torch does not allocate: where malloc is
    glibc's.
    """
    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, _poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, _poisoned(getattr(torch.Tensor, name)))
    assert torch.empty(3).isnan().all()
    assert torch.empty(1, dtype=torch.uint8).item() == GARBAGE
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
    mallopt(M_PERTURB, GARBAGE ^ 0xFF)  # the byte of freed memory; new one gets its complement
    yield
    mallopt(M_PERTURB, 0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks only lose by more; and only with as many are sums the same in every run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of networks that answer in several classes; modules may have another of this name."""
    folder = tmp_path_factory.mktemp("net") / "net"
    make_net().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Of such networks; modules may have another of this name."""
    return make_net().compile()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles to train on in seconds."""
    return square_tiles(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage 1 of `c2f train`."""
    out = tmp_path_factory.mktemp("coarse") / "run"
    assert main(coarse(data, out)) == 0
    return out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, the second one larger."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, (height, width) in {"a": (40, 50), "b": (64, 100), "c": (40, 50)}.items():
        draw(folder / f"{name}.png", height, width)
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The last line that a command wrote to stderr."""
    return lambda: capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real images and golden outputs: C2F_SHARED, or ../shared beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("C2F_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set C2F_SHARED")
    return folder
