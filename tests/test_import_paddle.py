"""c2f import-paddle: files as the authors' code writes them, and their network's answers."""

from __future__ import annotations

import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from c2fcore import C2FNet
from c2fcore.checkpoint import load_coarse
from c2fcore.cli import main
from c2fcore.models import paddle_weights

pytest.importorskip("timm")

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = {2: 1, 3: 4, 4: 3}  # modules of each stage


@pytest.fixture(scope="module")
def arrays(shared: Path) -> dict[str, np.ndarray]:
    """A fine network's weights under the authors' names, listed in the shared data."""
    listed = shared / "golden" / "hrnet_state_dict.txt"
    found = {}
    for line in listed.read_text().splitlines():
        name, _, shape = line.partition(" ")
        sizes = [int(v) for v in shape.strip("[]").split(",")]
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        value = draw.standard_normal(sizes) / np.sqrt(max(1, np.prod(sizes[1:])))
        if name.endswith(("_variance", "_batch_norm.weight")):
            value = draw.uniform(0.6, 1.2, sizes)
        found[name] = value.astype(np.float32)
    return found


def coarse_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with 16 classes, and their name of the head of FCN."""
    found = {name.replace("head_fgbg", "head"): value for name, value in arrays.items()}
    draw = np.random.default_rng(7)
    found["head.cls.weight"] = draw.standard_normal((16, 270, 1, 1)).astype(np.float32)
    found["head.cls.bias"] = draw.standard_normal(16).astype(np.float32)
    return found


def write(path: Path, arrays: dict[str, Any], protocol: int = 4, tuples: bool = False) -> Path:
    """As paddle.save does: with a table of its own names, or (from 2.1) with the name beside."""
    held: dict[str, Any] = {n: (n, a) if tuples else a for n, a in arrays.items()}
    if not tuples:
        held["StructuredToParameterName@@"] = {name: f"conv_{i}" for i, name in enumerate(arrays)}
    path.write_bytes(pickle.dumps(held, protocol=protocol))
    return path


class Theirs:
    """HRNet-W18 with FCN head as PaddleSeg computes it, straight from weights of its names."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.w = {name: torch.from_numpy(value).double() for name, value in arrays.items()}

    def conv(self, name: str, x: Tensor, stride: int = 1, relu: bool = True) -> Tensor:
        weight = self.w[f"{name}._conv.weight"]
        pads = []
        for side in (x.shape[-1], x.shape[-2]):  # "same": the odd pixel below and on the right
            total = max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, self.w.get(f"{name}._conv.bias"), stride)
        kinds = ("_mean", "_variance", "weight", "bias")
        x = F.batch_norm(x, *(self.w[f"{name}._batch_norm.{kind}"] for kind in kinds))
        return F.relu(x) if relu else x

    def stage(self, s: int, branches: list[Tensor]) -> list[Tensor]:
        for m in range(1, BLOCKS[s] + 1):
            inside = f"backbone.st{s}.stage_st{s}_{m}"
            for b in range(1, s + 1):
                for i in range(1, 5):
                    block = f"{inside}.branches_func.bb_st{s}_{m}_branch_layer_{b}_{i}"
                    x = self.conv(f"{block}.conv1", branches[b - 1])
                    x = self.conv(f"{block}.conv2", x, relu=False)
                    branches[b - 1] = F.relu(x + branches[b - 1])
            joined = []
            for i in range(1, s + 1):
                total = branches[i - 1]
                for j in range(1, s + 1):
                    x, name = (
                        branches[j - 1],
                        f"{inside}.fuse_func.residual_st{s}_{m}_layer_{i}_{j}",
                    )
                    if j > i:
                        x = self.conv(name, x, relu=False)
                        x = F.interpolate(x, total.shape[-2:], mode="bilinear")
                    for k in range(1, i - j + 1):
                        x = self.conv(f"{name}_{k}", x, stride=2, relu=k < i - j)
                    if i != j:
                        total = total + x
                joined.append(F.relu(total))
            branches = joined
        return branches

    def __call__(self, image: Tensor, head: str) -> Tensor:
        x = self.conv("backbone.conv_layer1_1", image, stride=2)
        x = self.conv("backbone.conv_layer1_2", x, stride=2)
        for i in range(1, 5):
            block = f"backbone.la1.bb_layer2_{i}"
            y = self.conv(f"{block}.conv2", self.conv(f"{block}.conv1", x))
            y = self.conv(f"{block}.conv3", y, relu=False)
            x = F.relu(y + (self.conv(f"{block}.conv_down", x, relu=False) if i == 1 else x))
        branches = [self.conv("backbone.tr1.transition_tr1_layer_1", x),
                    self.conv("backbone.tr1.transition_tr1_layer_2", x, stride=2)]  # fmt: skip
        for s in (2, 3, 4):
            branches = self.stage(s, branches)
            if s < 4:
                name = f"backbone.tr{s}.transition_tr{s}_layer_{s + 1}"
                branches.append(self.conv(name, branches[-1], stride=2))
        size = branches[0].shape[-2:]
        x = torch.cat([F.interpolate(b, size, mode="bilinear") for b in branches], dim=1)
        x = self.conv(f"{head}.conv_1", x)
        return F.conv2d(x, self.w[f"{head}.cls.weight"], self.w[f"{head}.cls.bias"])


@pytest.mark.parametrize(("protocol", "tuples"), [(2, False), (4, True), (5, False)])
def test_the_network_answers_as_theirs(
    arrays: dict[str, np.ndarray], tmp_path: Path, protocol: int, tuples: bool
) -> None:
    found = paddle_weights.load(write(tmp_path / "fine.pdparams", arrays, protocol, tuples))
    assert (found.stage, found.num_classes) == ("fine", 2)
    if protocol != 4:
        return
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = Theirs(arrays)(image, "head_fgbg")
        assert expected.std() > 0.1
        torch.testing.assert_close(found.network.double()(image), expected)


def test_both_networks_become_a_checkpoint(
    arrays: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = str(write(tmp_path / "fine.pdparams", arrays))
    coarse = str(write(tmp_path / "coarse.pdparams", coarse_of(arrays)))
    out = str(tmp_path / "net")
    assert main(["import-paddle", fine, "--coarse", coarse, "-o", out]) == 0
    assert "fine network, 2 channels" in capsys.readouterr().out
    net = C2FNet.from_pretrained(out)
    assert (net.config.rule, net.config.strategy, net.config.edge) == ("official", "all", "drop")
    assert net.config.small_classes == (1, 8, 9, 10, 11, 14, 15)
    assert net.config.mean == net.config.std == 0.5
    assert net(torch.zeros((1, 3, 128, 128), dtype=torch.uint8)).shape == (1, 128, 128)
    # In two steps the same.
    assert main(["import-paddle", coarse, "-o", str(tmp_path / "first")]) == 0
    network, config = load_coarse(tmp_path / "first")
    assert config == net.config
    options = ["--coarse", str(tmp_path / "first"), "-o", str(tmp_path / "second")]
    for more in (["--small", "plane"], ["--preset", "paper"], ["--dataset", "isaid"]):
        assert main(["import-paddle", fine, *options, *more]) == 2
        assert f"{more[0]} must be left to the checkpoint of --coarse" in capsys.readouterr().err
    assert main(["import-paddle", fine, *options]) == 0
    again = C2FNet.from_pretrained(tmp_path / "second")
    for (key, one), other in zip(net.state_dict().items(), again.state_dict().values()):
        assert torch.equal(one, other), key
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), net.coarse.parameters()))


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        path = write(tmp_path / "bad.pdparams", {"x": Command()}, protocol)
        with pytest.raises(ValueError, match=r"must hold arrays alone: it asks for \w+.system"):
            paddle_weights.load(path)
    # Neither hidden in an array of objects.
    path = write(tmp_path / "bad.pdparams", {"x": np.array([Command()], object)})
    with pytest.raises(ValueError, match="must hold arrays alone"):
        paddle_weights.load(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_fgbg.cls.weight": None}, "must be of FCN or C2FNet"),
        (
            {"backbone.conv_layer1_1._conv.weight": None},
            "branches.conv1.weight is missing",
        ),
        ({"head_fgbg.cls.weight": np.zeros((2, 64, 1, 1))}, "270 .* or 720 .* wide, got 64"),
        ({"backbone.extra": np.zeros(3)}, "backbone.extra is unknown"),
        ({"head_fgbg.cls.bias": np.zeros(3)}, r"head.3.bias is \[3\] instead of \[2\]"),
        ({"head_fgbg.cls.bias": np.array([0, np.nan])}, r"must be finite, got nan in fine.head.3"),
        ({"x": "text"}, "must hold arrays by name, got 'x': str"),
    ],
)
def test_refuses(
    arrays: dict[str, np.ndarray], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    held = {**arrays, **change}
    held = {name: value for name, value in held.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        paddle_weights.load(write(tmp_path / "w.pdparams", held))


def test_refuses_other_files(tmp_path: Path) -> None:
    for name, content in (("text", b"hello"), ("empty", b""), ("list", pickle.dumps([1, 2]))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"import-paddle: .* must"):
            paddle_weights.load(tmp_path / name)


def test_stages_must_fit(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    fine = str(write(tmp_path / "fine.pdparams", arrays))
    out = ["-o", str(tmp_path / "net")]
    assert main(["import-paddle", fine, *out]) == 2
    assert main(["import-paddle", fine, "--coarse", fine, *out]) == 2
    assert not (tmp_path / "net").exists()
