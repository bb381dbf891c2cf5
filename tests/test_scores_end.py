"""How c2f eval, reproduce and import-paddle end on what they cannot use: told before the work."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from availability import NEEDS_SCIPY
from PIL import Image

from c2fcore import C2FConfig, C2FNet
from c2fcore.checkpoint import save_coarse
from c2fcore.cli import evaluate as eval_command
from c2fcore.cli import main
from c2fcore.evaluation.predictor import load
from c2fcore.models import build

Said = Callable[[], str]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = C2FConfig(2, (1,), window=16, stride=8, n=2, class_names=("ground", "car"))
    both = build("tiny_fcn", 2, width=4), build("tiny_fcn", 2, width=4)
    C2FNet(*both, config).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for i in range(2):
        for kind, high, shape in (("images", 256, (32, 32, 3)), ("masks", 2, (32, 32))):
            path = tmp_path / "raw" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, high, shape, dtype=np.uint8)).save(path)
    make = ["prepare", "custom", str(tmp_path / "raw"), "-o", str(tmp_path / "tiles")]
    options = ["--classes", "ground,car", "--small", "car", "--tile", "32", "--workers", "0"]
    assert main([*make, *options]) == 0
    return tmp_path / "tiles"


def refuse(*args: object, **options: object) -> None:
    raise AssertionError("the work was begun")


@pytest.mark.parametrize("out", ["/proc/nothing", "NET/config.json/deeper"])
def test_nothing_is_scored_that_could_not_be_written(
    out: str, net: Path, tiles: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_command, "evaluate", refuse)
    folder = out.replace("NET", str(net))
    assert main(["eval", str(tiles), "--checkpoint", str(net), "-o", folder]) == 2
    assert folder.partition("/deeper")[0].removesuffix("/nothing") in said()
    given = ["--data", str(tiles), "--checkpoint", str(net), "--sweep", "zoom=1"]
    assert main(["reproduce", "table2", *given, "-o", folder]) == 2
    assert said().startswith("c2f reproduce: error: ")


@NEEDS_SCIPY
def test_names_of_any_kind_are_written(net: Path, tiles: Path, tmp_path: Path) -> None:
    """Names of files that are no UTF-8, as from archives of other systems; a | ends no cell."""
    odd = os.fsdecode("stra\xdfe".encode("latin-1"))
    raw, out = tmp_path / odd, tmp_path / "out"
    (tmp_path / "raw").rename(raw)
    for kind in ("images", "masks"):
        (raw / kind / "1.png").rename(raw / kind / f"{odd}.png")
    config = json.loads((net / "config.json").read_text())
    config["config"]["class_names"] = ["ground", "car|van"]
    (net / "config.json").write_text(json.dumps(config))
    command = ["eval", str(raw), "--checkpoint", str(net), "-o", str(out), "--pictures", "1"]
    assert main(command) == 0
    with (out / "images.csv").open("rb") as file:
        lines = [line.split(b",")[0] for line in file]
    assert lines == [b"name", b"0", b"stra\xdfe"]
    assert any(odd in path.name for path in (out / "pictures").iterdir())
    text = (out / "scores.md").read_text(errors="surrogateescape")
    assert f"{net} on {odd}: 2 tiles" in text
    assert "\n| car\\|van * " in text
    cells = [line.replace("\\|", "").count("|") for line in text.splitlines()[2:8]]
    assert len(set(cells)) == 1


def test_a_coarse_network_of_other_classes_or_pixels(net: Path, tmp_path: Path) -> None:
    both = C2FNet.from_pretrained(net)
    both.save_pretrained(tmp_path / "fine", include_coarse=False)
    for name, change, message in (
        ("names", {"class_names": ("car", "ground")}, "got class 0 'car' instead of 'ground'"),
        ("mean", {"mean": 0.5}, r"got scale, mean and std \(None, 0.5, None\) instead of"),
    ):
        save_coarse(both.coarse, both.config.replace(**change), tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "fine", coarse=tmp_path / name)
    alike = both.config.replace(class_names=None, scale=1 / 255, mean=(0.0, 0.0, 0.0), std=1)
    save_coarse(both.coarse, alike, tmp_path / "alike")
    assert load(tmp_path / "fine", coarse=tmp_path / "alike").refines


@NEEDS_SCIPY
def test_rows_that_failed_are_told_last(net: Path, tiles: Path, tmp_path: Path, said: Said) -> None:
    given = ["--data", str(tiles), "--checkpoint", str(net), "-o", str(tmp_path / "out")]
    assert main(["reproduce", "table1", *given, "--sweep", "window=16", "stride=0,8"]) == 1
    line = said()
    assert line.startswith("c2f reproduce: 1 of 2 rows failed, run it again to try them anew: ")
    assert "window 16, stride 0 failed: C2FConfig: stride must be at least 1, got 0" in line


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_tile_is_named(workers: str, net: Path, tiles: Path, said: Said) -> None:
    path = tiles / "img_dir/all/1_0_32_0_32.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    command = ["eval", str(tiles), "--checkpoint", str(net), "--workers", workers]
    assert main(command) == 2
    assert f"{path} must be as `c2f prepare` wrote it, remove it and run that again" in said()
    # Its advice helps.
    path.unlink()
    assert main(command) == 2
    assert "got no such file" in said()
    raw = [str(tiles.parent / "raw"), "-o", str(tiles), "--classes", "ground,car"]
    more = ["--small", "car", "--tile", "32", "--workers", "0"]
    assert main(["prepare", "custom", *raw, *more]) == 0
    assert path.read_bytes() == whole


_STOPPED = """
import os, signal, sys
from multiprocessing import forkserver
from c2fcore.cli import main

connect = forkserver.connect_to_new_process

def connected(given):
    found = connect(given)  # the process waits to be told what to load
    os.kill(os.getpid(), signal.SIGINT)
    return found

forkserver.connect_to_new_process = connected
sys.exit(main(["eval", *sys.argv[1:], "--workers", "1"]))
"""


def test_ctrl_c_while_processes_are_begun_is_no_traceback(net: Path, tiles: Path) -> None:
    given = [sys.executable, "-c", _STOPPED, str(tiles), "--checkpoint", str(net)]
    ended = subprocess.run(given, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 130
    assert ended.stderr.startswith(
        "c2f eval: stopped\n"
    )  # Python may tell of semaphores at its end
    assert "Traceback" not in ended.stderr


def test_a_checkpoint_that_is_nowhere(tiles: Path, said: Said) -> None:
    pytest.importorskip("huggingface_hub")
    assert main(["eval", str(tiles), "--checkpoint", "no such/folder"]) == 2
    assert "must be a folder or a model on the hub, got 'no such/folder', which is no" in said()


def test_weights_that_are_no_file(tmp_path: Path, net: Path, said: Said) -> None:
    out = ["-o", str(tmp_path / "out")]
    for path, why in ((tmp_path / "none.pdparams", "no such file"), (tmp_path, "a folder")):
        assert main(["import-paddle", str(path), *out]) == 2
        assert f"weights must be a .pdparams file, got {path} ({why})" in said()
    empty = tmp_path / "empty.pdparams"
    empty.write_bytes(pickle.dumps({}))
    assert main(["import-paddle", str(empty), "--coarse", str(tmp_path / "no"), *out]) == 2
    assert f"weights must be a .pdparams file, got {tmp_path / 'no'}" in said()
    assert main(["import-paddle", str(empty), *out]) == 2
    assert f"got nothing in {empty}" in said()
    assert not (tmp_path / "out").exists()
