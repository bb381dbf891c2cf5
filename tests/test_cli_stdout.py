"""`c2f` where nobody reads what it says, it cannot be written, or Ctrl-C ends it at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of Unix")


def ended(stdout: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status of a command, and what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "c2fcore", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        text=True,
    )
    return done.returncode, done.stderr


@pytest.fixture
def broken_pipe() -> int:
    """The end to write to of a pipe whose reader has left: what `| head` leaves behind."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(("argument", "unbuffered"), [("info", ""), ("info", "1"), ("--help", "")])
def test_a_reader_that_left(argument: str, unbuffered: str, broken_pipe: int) -> None:
    assert ended(broken_pipe, argument, PYTHONUNBUFFERED=unbuffered) == (141, "")


def test_a_reader_that_left_is_no_fault_of_an_image(broken_pipe: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    status, said = ended(
        broken_pipe, "predict", str(tmp_path), "-o", str(out), PYTHONUNBUFFERED="1"
    )
    assert status == 141
    assert "error" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        status, said = ended(full.fileno(), "info")
    assert status == 2
    assert said.endswith("c2f: error: stdout: [Errno 28] No space left on device\n")
    assert "Traceback" not in said


def test_what_is_for_stderr_is_not_said_on_stdout_without_one(tmp_path: Path) -> None:
    """As of a service, or after `2>&-`: stdout may be another program's."""
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(tmp_path / "a.png")
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "c2fcore", "predict"]
    given = [str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    for status in (0, 2):  # the second time results are there
        done = subprocess.run([*command, *given], stdout=subprocess.PIPE, text=True)
        assert done.returncode == status
        assert ("a.png: 90 x 70 px" in done.stdout) == (status == 0)
        assert "note: " not in done.stdout
        assert "error" not in done.stdout


def test_a_name_that_is_no_text_ends_nothing(tmp_path: Path) -> None:
    """Linux takes any bytes for names, and a terminal of UTF-8 does not take all of them."""
    for name in (b"a\xe9.png", b"b.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(file, "PNG")
    out = tmp_path / "out"
    status, said = ended(
        subprocess.PIPE, "predict", str(tmp_path), "-o", str(out), PYTHONIOENCODING="utf-8:strict"
    )
    assert (status, "error" in said) == (0, False)
    assert (out / "b_labels.png").exists()


@pytest.mark.parametrize("library", ["torch", "PIL"])
def test_interrupted_while_libraries_are_imported(library: str, tmp_path: Path) -> None:
    """Torch is imported with the package, before a line of the command; others by it."""
    interrupt = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
    (tmp_path / f"{library}.py").write_text(f"{interrupt}\nraise RuntimeError('not interrupted')")
    for arguments in (["info"], ["--help"], []):
        assert ended(subprocess.PIPE, *arguments, PYTHONPATH=str(tmp_path)) == (130, "")
    script = tmp_path / "c2f"  # as pip writes it
    script.write_text("import sys; from c2fcore.cli import main; sys.exit(main())")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, script], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (130, b"")


def test_who_imports_the_package_hears_of_an_interruption(tmp_path: Path) -> None:
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "torch.py").write_text(interrupt)
    code = "try:\n import c2fcore\nexcept KeyboardInterrupt:\n print('heard')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment) == b"heard\n"
