"""Files of a checkpoint that are damaged, or cannot be read: each is told as what it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from c2fcore import C2FConfig, C2FNet, models
from c2fcore.checkpoint import stages


def named() -> C2FNet:
    coarse, fine = models.build("tiny_fcn", 4, width=4), models.build("tiny_fcn", 1, width=4)
    return C2FNet(coarse, fine, C2FConfig(4, (1, 3), window=16, stride=8))


def test_damaged_files(tmp_path: Path) -> None:
    named().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="must be a safetensors file"):
        C2FNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json must be JSON"):
        C2FNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold config.json, got none"):
        C2FNet.from_pretrained(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="files of Unix")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkdir, "Is a directory"),
        (os.mkfifo, "a special file"),
        (lambda path: os.symlink("nowhere", path), "No such file or directory"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links"),
    ],
)
def test_files_that_are_there_and_cannot_be_read(
    name: str, make: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    named().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    for load in (C2FNet.from_pretrained, stages):
        with pytest.raises(ValueError, match=f"{name} must be a file that can be read, got {why}"):
            load(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions of Unix")
def test_weights_of_somebody_else() -> None:
    """safetensors would tell that there is no such file."""
    with tempfile.TemporaryDirectory() as folder:  # whose parents everybody may enter
        os.chmod(folder, 0o755)
        named().save_pretrained(folder)
        C2FNet.from_pretrained(folder)  # imports what nobody else may be allowed to
        os.chmod(Path(folder, "model.safetensors"), 0)
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            with pytest.raises(ValueError, match="must be a file that can be read, got Permission"):
                C2FNet.from_pretrained(folder)
        finally:
            os.seteuid(user)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file without a size")
def test_weights_that_cannot_be_mapped(tmp_path: Path) -> None:
    named().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/proc/self/mem")
    with pytest.raises(ValueError, match=r"model.safetensors must be a safetensors file, got No "):
        C2FNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["weights", "state"])
def test_a_disk_that_is_full_is_told_by_the_file(kind: str, tmp_path: Path) -> None:
    """Neither safetensors nor torch.save says which file it was; what was there stays."""
    resource = pytest.importorskip("resource", reason="limits of a process: POSIX")
    if kind == "weights":
        net, path = named(), tmp_path / "model.safetensors"
        net.save_pretrained(tmp_path)
        write = partial(net.save_pretrained, tmp_path, overwrite=True)
    else:
        running = pytest.importorskip("c2fcore.train.running", reason="training: c2fcore[train]")
        path = tmp_path / "last.ckpt"
        state = {"weights": torch.zeros(100_000)}
        running.WholeStates().save_checkpoint(state, path)
        write = partial(running.WholeStates().save_checkpoint, state, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(OSError, match=rf"^{path} must be written whole, got .*: is the disk "):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))
