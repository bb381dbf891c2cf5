"""Networks by name, and reading logits out of outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import FORMS
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet, models

pytestmark = pytest.mark.usefixtures("one_thread")

SMP = {"unet": 1, "pspnet": 8, "deeplabv3plus": 4, "upernet": 4, "segformer": 4}

# Parameters in millions at 19 classes and stride of the logits. Published: OCRNet 12.08 and 70.4
# (mmsegmentation's and the authors' tables), FarSeg 31.4 and FactSeg 33.4 (FactSeg paper, table of
# complexity; at 16 classes).
OURS = {
    "ocrnet_hrnet_w18": (12.08, 4),
    "ocrnet_hrnet_w48": (70.37, 4),
    "farseg": (31.37, 4),
    "factseg": (33.45, 4),
    "pp_liteseg": (6.70, 8),
}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_available() -> None:
    own = {"fcn_hrnet_w18", "fcn_hrnet_w48", "tiny_fcn", "foreground", *OURS}
    assert set(models.available()) == {*own, *SMP}


@pytest.fixture(scope="module")
def hrnet() -> nn.Module:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    return models.build("fcn_hrnet_w18", 16).eval()


def test_hrnet(hrnet: nn.Module) -> None:
    assert round(parameters(hrnet) / 1e6, 2) == 9.64
    assert hrnet.stride_multiple == 32
    with torch.no_grad():
        assert hrnet(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 16, 24)
        hrnet.upsample = True  # type: ignore[assignment]
        assert hrnet(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 64, 96)
        hrnet.upsample = False  # type: ignore[assignment]


def test_hrnet_has_the_weights_of_the_authors_network(hrnet: nn.Module, shared: Path) -> None:
    # Names differ, order does not: layer by layer the same shapes, but for the counters of batches
    # that Paddle does not keep.
    lines = (shared / "golden" / "hrnet_state_dict.txt").read_text().splitlines()
    theirs = [tuple(int(v) for v in line.split("[")[1].rstrip("]").split(",")) for line in lines]
    ours = [
        tuple(value.shape)
        for key, value in hrnet.state_dict().items()
        if not key.endswith("num_batches_tracked")
    ]
    assert len(ours) == len(theirs)
    theirs[-2:] = [(16, 270, 1, 1), (16,)]  # they are of a fine network, with two classes
    assert sorted(ours) == sorted(theirs)
    assert ours[-8:] == theirs[-8:]  # the head


@pytest.mark.parametrize("name", SMP)
def test_segmentation_models(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    encoder = "mit_b0" if name == "segformer" else "resnet18"
    network = models.build(name, 5, in_channels=4, encoder_name=encoder).eval()
    multiple = network.stride_multiple
    assert isinstance(multiple, int)
    assert multiple == {"pspnet": 8, "deeplabv3plus": 16}.get(name, 32)
    size = (2 * multiple, 6 * multiple)
    with torch.no_grad():
        logits = models.logits_of(network(torch.zeros(1, 4, *size)))
    assert logits.shape == (1, 5, size[0] // SMP[name], size[1] // SMP[name])
    assert network.c2f_spec == {
        "name": name,
        "kwargs": {"num_classes": 5, "in_channels": 4, "encoder_name": encoder},
    }


def test_segmentation_models_options_pass_through() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    network = models.build(
        "upernet", 5, encoder_name="resnet18", encoder_weights=None, upsampling=4
    ).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 64, 64)
    assert "encoder_weights" not in network.c2f_spec["kwargs"]  # type: ignore[operator, index]


@pytest.mark.parametrize("name", OURS)
def test_written_after_papers(name: str) -> None:
    pytest.importorskip("timm")
    size, stride = OURS[name]
    with torch.device("meta"):
        assert round(parameters(models.build(name, 19)) / 1e6, 2) == pytest.approx(size, abs=0.011)
    if name == "ocrnet_hrnet_w48":
        return  # the same code as W18
    torch.manual_seed(0)
    options = {"encoder": "resnet18"} if "seg" in name and name != "pp_liteseg" else {}
    network = models.build(name, 5, in_channels=4, **options)
    image = torch.randn(2, 4, 64, 96)
    answers = models.all_logits(network.train()(image))
    assert len(answers) == (2 if name.startswith("ocr") else 1)
    for logits in answers:
        assert logits.shape == (2, 5, 64 // stride, 96 // stride)
    target = torch.randint(0, 5, answers[0].shape[-2:]).expand(2, -1, -1)
    loss = sum(torch.nn.functional.cross_entropy(logits, target) for logits in answers)
    assert isinstance(loss, Tensor)
    loss.backward()
    # (Not "any gradient above 0": residual blocks of timm start with a last scale of 0.)
    assert [k for k, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    with torch.no_grad():
        one = network(image)
        assert one.shape == answers[0].shape
        torch.testing.assert_close(network(image[1:]), one[1:], rtol=1e-3, atol=1e-3)
    # Odd sides: the pipeline pads to the network's multiple.
    fine = models.build("tiny_fcn", 1, width=4)
    coarse = models.build(name, 3, **options)
    config = C2FConfig(num_classes=3, small_classes=(0, 1), window=32, stride=16, n=2)
    photo = torch.randint(0, 255, (1, 3, 61, 75), dtype=torch.uint8)
    assert C2FNet(coarse, fine, config).eval()(photo).shape == (1, 61, 75)


def test_factseg_answers_with_joint_probabilities() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    network = models.build("factseg", 3, encoder="resnet18", width=16, decoder=8).eval()
    parts: dict[str, Tensor] = {}
    for part in ("foreground", "classify"):
        getattr(network, part).register_forward_hook(
            lambda module, given, answer, part=part: parts.update({part: answer})
        )
    with torch.no_grad():
        found = network(torch.randn(1, 3, 64, 64)).softmax(1)
    foreground, classes = parts["foreground"].sigmoid(), parts["classify"].softmax(1)
    joint = torch.cat((classes[:, :1] * (1 - foreground), classes[:, 1:] * foreground), dim=1)
    torch.testing.assert_close(found, joint / joint.sum(1, keepdim=True))


def test_tiny() -> None:
    network = models.build("tiny_fcn", 3, in_channels=5, width=4)
    assert network.c2f_spec == {
        "name": "tiny_fcn",
        "kwargs": {"num_classes": 3, "in_channels": 5, "width": 4},
    }
    assert network(torch.zeros(2, 5, 64, 64)).shape == (2, 3, 16, 16)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's."""
    (tmp_path / "their_networks.py").write_text(
        "from torch import nn\n"
        "def convolution(num_classes, in_channels=3, pretrained='not asked for', kernel=1):\n"
        "    network = nn.Conv2d(in_channels, num_classes, kernel)\n"
        "    network.told = pretrained\n"
        "    return network\n"
        "def nothing(num_classes, in_channels): return None\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_networks", raising=False)
    return "their_networks"


def test_function_of_the_users(plugin: str) -> None:
    network = models.build(f"{plugin}:convolution", 3, in_channels=4, kernel=5)
    assert isinstance(network, nn.Conv2d)
    assert network.weight.shape == (3, 4, 5, 5)
    assert network.told == "not asked for"
    assert models.build(f"{plugin}:convolution", 3, pretrained=True).told is True
    assert network.c2f_spec == {
        "name": f"{plugin}:convolution",
        "kwargs": {"num_classes": 3, "in_channels": 4, "kernel": 5},
    }


def test_refuses(plugin: str) -> None:
    with pytest.raises(ValueError, match=r"models.build: name must be one of .*got 'fcn'"):
        models.build("fcn", 3)
    with pytest.raises(TypeError, match=r"models.build: name must be a string, got NoneType"):
        models.build(None, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_classes must be in 1..256, got 0"):
        models.build("tiny_fcn", 0)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        models.build("tiny_fcn", 2, in_channels=0)
    with pytest.raises(ValueError, match="tiny_fcn has no pretrained encoder"):
        models.build("tiny_fcn", 2, pretrained=True)
    with pytest.raises(ValueError, match="'no_such_module:f' must be an importable function"):
        models.build("no_such_module:f", 2)
    with pytest.raises(ValueError, match="must be an importable function, got module"):
        models.build(f"{plugin}:missing", 2)
    with pytest.raises(TypeError, match="must be callable, got int"):
        models.build(f"{plugin}:number", 2)
    with pytest.raises(TypeError, match=r"must return an nn.Module, got NoneType"):
        models.build(f"{plugin}:nothing", 2)


@pytest.mark.parametrize(
    ("name", "package"),
    [("fcn_hrnet_w18", "timm"), ("unet", "segmentation_models_pytorch")],
)
def test_missing_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # its import fails
    with pytest.raises(ImportError, match=rf"needs {package}.*pip install 'c2fcore\[models\]'"):
        models.build(name, 3)


@pytest.mark.parametrize("form", FORMS)
def test_logits_of(form: str) -> None:
    logits = torch.randn(2, 3, 4, 5)
    found = models.logits_of(FORMS[form](logits))
    assert found.dtype == torch.float32
    assert torch.equal(found, logits)


def test_what_a_network_says_of_whole_images_is_no_logits() -> None:
    """As the classes [B, N] that networks of segmentation_models_pytorch give with aux_params."""
    logits = torch.randn(2, 3, 4, 5)
    answers = models.all_logits((logits, torch.randn(2, 3), logits[..., 1:]))
    assert [answer.shape for answer in answers] == [logits.shape, (2, 3, 4, 4)]


def test_logits_of_hugging_face_output() -> None:
    # transformers' ModelOutput: an OrderedDict with attributes.
    class ModelOutput(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:
                raise AttributeError(name) from None

    logits = torch.randn(2, 3, 4, 5)
    assert models.logits_of(ModelOutput(logits=logits, hidden_states=None)) is logits


def test_torchvision_network() -> None:
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    coarse = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    config = C2FConfig(num_classes=4, small_classes=(0, 1, 2), window=32, stride=16, n=2)
    net = C2FNet(coarse, models.build("tiny_fcn", 1, width=4), config).eval()
    image: Tensor = torch.randint(0, 255, (1, 3, 50, 70), dtype=torch.uint8)
    assert net(image).shape == (1, 50, 70)
