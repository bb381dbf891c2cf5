"""save_pretrained and from_pretrained: the way there and back, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import BASE, Coarse, Fine, network, scene
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet, models
from c2fcore.checkpoint import load_coarse, save_coarse, stages

pytestmark = pytest.mark.usefixtures("one_thread")


def named(**options: Any) -> C2FNet:
    """A network of two tiny_fcn, which a checkpoint can rebuild."""
    torch.manual_seed(0)
    coarse, fine = models.build("tiny_fcn", 4, width=4), models.build("tiny_fcn", 1, width=6)
    return C2FNet(coarse, fine, C2FConfig(**{**BASE, **options})).eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    """Both have the same weights under the same names."""
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def image() -> Tensor:
    return scene(50, 64, objects=9)[0]


def test_there_and_back(tmp_path: Path) -> None:
    net = named(mean=(0.1, 0.2, 0.3), class_names=("a", "b", "c", "d"), zoom=1.5)
    net.train().fine_loss(image(), torch.zeros(1, 50, 64, dtype=torch.uint8)).backward()
    net.save_pretrained(tmp_path / "new" / "folder")
    found = C2FNet.from_pretrained(tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert found.config == net.config
    assert same(found, net)
    assert not found.training
    assert not any(p.requires_grad for p in found.coarse.parameters())
    assert all(p.requires_grad for p in found.fine_parameters())
    assert torch.equal(found(image()), net.eval()(image()))
    # A loaded network can be saved again.
    found.save_pretrained(tmp_path / "again")
    assert same(C2FNet.from_pretrained(str(tmp_path / "again")), net)


def test_config_fields_may_be_changed(tmp_path: Path) -> None:
    named().save_pretrained(tmp_path)
    found = C2FNet.from_pretrained(tmp_path, n=3, backend="reference")
    assert (found.config.n, found.config.backend) == (3, "reference")
    with pytest.raises(ValueError, match=r"small_classes belongs to the weights .*got \(2,\)"):
        C2FNet.from_pretrained(tmp_path, small_classes=(2,))
    with pytest.raises(ValueError, match="keys must be fields of C2FConfig, got 'windw'"):
        C2FNet.from_pretrained(tmp_path, windw=3)


def test_modules_given_by_hand(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.coarse.weight += 1
        net.fine.weight += 1
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"coarse network was given by hand .*passed as coarse="):
        C2FNet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"fine network was given by hand .*passed as fine="):
        C2FNet.from_pretrained(tmp_path, coarse=Coarse())
    found = C2FNet.from_pretrained(tmp_path, coarse=Coarse(), fine=Fine())
    assert same(found, net)


def test_without_the_coarse_network(tmp_path: Path) -> None:
    net = named()
    net.save_pretrained(tmp_path, include_coarse=False)
    from safetensors.torch import load_file

    assert all(key.startswith("fine.") for key in load_file(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match="holds no coarse weights: pass coarse="):
        C2FNet.from_pretrained(tmp_path)
    found = C2FNet.from_pretrained(tmp_path, net.coarse)
    assert found.coarse is net.coarse
    assert same(found, net)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    net = named()
    key, weight = list(net.fine.named_parameters())[-1]
    with torch.no_grad():
        weight.view(-1)[-1] = value
    net.save_pretrained(tmp_path)
    count = weight.numel()
    said = rf"must be finite, got {value} in fine.{re.escape(key)} \(1 of {count} values\)"
    with pytest.raises(ValueError, match=said):
        C2FNet.from_pretrained(tmp_path)


def test_a_buffer_may_be_infinite_and_no_more(tmp_path: Path) -> None:
    nets = [network(), network()]
    for net, value in zip(nets, (-float("inf"), float("nan")), strict=True):
        net.fine.register_buffer("mask", torch.full((2,), value))
    nets[0].save_pretrained(tmp_path)
    fine = Fine()
    fine.register_buffer("mask", torch.zeros(2))
    found = C2FNet.from_pretrained(tmp_path, coarse=Coarse(), fine=fine)
    assert same(found, nets[0])
    nets[1].save_pretrained(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"must be finite, got nan in fine.mask \(2 of 2"):
        C2FNet.from_pretrained(tmp_path, coarse=Coarse(), fine=fine)


def test_nothing_is_written_over_unasked(tmp_path: Path) -> None:
    net = named()
    net.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(net.fine_parameters()).add_(1)
    with pytest.raises(FileExistsError, match=r"config.json must not exist unless overwrite=True"):
        net.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileExistsError, match=r"model.safetensors must not exist unless"):
        net.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    net.save_pretrained(tmp_path, overwrite=True)
    assert same(C2FNet.from_pretrained(tmp_path), net)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named().save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = named()
    with torch.no_grad():
        next(other.fine_parameters()).add_(1)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        other.save_pretrained(tmp_path, overwrite=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_name_that_is_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        named().save_pretrained(tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("fine", "message"),
    [
        (
            models.build("tiny_fcn", 2, width=6),
            r"must fit the fine network, got .* is \[1, .* instead of \[2, ",
        ),
        (Fine(), "must fit the fine network, got weight is missing, bias is missing, .* more$"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, fine: nn.Module, message: str) -> None:
    named().save_pretrained(tmp_path)
    before = {key: value.clone() for key, value in fine.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        C2FNet.from_pretrained(tmp_path, fine=fine)
    assert all(torch.equal(value, before[key]) for key, value in fine.state_dict().items())


def test_names_are_no_networks(tmp_path: Path) -> None:
    named().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"coarse must be an nn.Module, got str 'tiny_fcn'; models"):
        C2FNet.from_pretrained(tmp_path, coarse="tiny_fcn")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"load_coarse: coarse must be an nn.Module, got dict"):
        load_coarse(tmp_path, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_is_no_folder_to_save_to(tmp_path: Path, below: str) -> None:
    file = tmp_path / "net.safetensors"
    file.touch()
    with pytest.raises(FileExistsError, match=r"directory must be a folder, got .*ors is a file"):
        named().save_pretrained(file / below)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].update(wndow=3), "keys must be fields of C2FConfig, got 'wndow'"),
        (lambda c: c["config"].pop("num_classes"), "num_classes must be given"),
        (lambda c: c["config"].update(window=0), "window must be at least 1, got 0"),
        (lambda c: c["config"].update(num_classes=6), "coarse network must have 6 channels, got 4"),
        (lambda c: c["coarse"]["kwargs"].update(num_classes=6), r"is \[4.* instead of \[6"),
        (lambda c: c.update(format="other"), "must be a c2fcore checkpoint's"),
        (lambda c: c.update(format_version=2), "must have format_version 1, got 2"),
        (lambda c: c.update(fine={"name": "tiny_fcn"}), "fine must have a name and kwargs"),
        (lambda c: c["fine"].update(kwargs=5), "fine must have a name and kwargs"),
        (lambda c: c["fine"]["kwargs"].update(nope=1), "fine must be options of tiny_fcn.*'nope'"),
        (lambda c: c["fine"].update(name="nothing"), "name must be one of .*got 'nothing'"),
        (lambda c: c["fine"].update(name="os:system"), "names code for the fine .*got 'os:system'"),
    ],
)
def test_damaged_or_foreign_config(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    named().save_pretrained(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        C2FNet.from_pretrained(tmp_path)


def test_weights_of_nobody(tmp_path: Path) -> None:
    named().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "other.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"must be named coarse.* or fine.*, got other.weight"):
        C2FNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "source", ["nowhere", "./a/b", "/a/b", "a/b/c", Path("a/b"), Path("a/b@c"), "a@b/c", "@a/b"]
)
def test_no_checkpoint_there(source: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a folder or a hub id 'owner/name'"):
        C2FNet.from_pretrained(source)


def test_a_file_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """folder/config.json reads like owner/name."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    named().save_pretrained("net")
    with pytest.raises(FileNotFoundError, match=r"got .net/config\.json., and that is a file"):
        C2FNet.from_pretrained("net/config.json")
    with pytest.raises(FileNotFoundError, match=r"got 'net/there', and the folder net is here wit"):
        C2FNet.from_pretrained("net/there")
    with pytest.raises(FileNotFoundError, match=r"from another folder, or as 'net/there@main'"):
        C2FNet.from_pretrained("net/there")
    with pytest.raises(pytest.fail.Exception, match="asked the hub"):
        C2FNet.from_pretrained("net/there@main")


def test_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    net = named()
    net.save_pretrained(tmp_path)
    asked = []

    def download(repo: str, name: str, **options: Any) -> str:
        asked.append((repo, name, options))
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    found = C2FNet.from_pretrained("owner/name", revision="v1", token="t", local_files_only=True)
    assert same(found, net)
    options = {"revision": "v1", "token": "t", "local_files_only": True}
    assert asked == [
        ("owner/name", "config.json", options),
        ("owner/name", "model.safetensors", options),
    ]
    for source, revision in (("owner/name", None), ("owner/name@v1", "v1"),
                             ("owner/name@refs/pr/1", "refs/pr/1")):  # fmt: skip
        asked.clear()
        assert same(C2FNet.from_pretrained(source), net)
        assert stages(source) == ("coarse", "fine")
        assert {(repo, options["revision"]) for repo, _, options in asked} == {
            ("owner/name", revision)
        }
    with pytest.raises(ValueError, match="revision must be given once, got 'v2' with 'owner/name@"):
        C2FNet.from_pretrained("owner/name@v1", revision="v2")


def test_code_is_only_run_if_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_fine.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels=3):\n"
        "    return nn.Conv2d(in_channels, num_classes, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_fine", raising=False)
    net = named()
    net.fine = models.build("my_fine:make", 1)
    net.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(
        ValueError, match=r"pass fine= or trust_code=True \(--trust-code; .*\), got 'my_fine:make'"
    ):
        C2FNet.from_pretrained(tmp_path / "checkpoint")
    assert same(C2FNet.from_pretrained(tmp_path / "checkpoint", trust_code=True), net)


def test_compiled_networks_are_saved_under_their_own_names(tmp_path: Path) -> None:
    net = named()
    net.fine = torch.compile(net.fine, backend="eager")  # type: ignore[assignment]
    net.save_pretrained(tmp_path)
    assert same(C2FNet.from_pretrained(tmp_path), named())


def test_tied_and_strided_weights(tmp_path: Path) -> None:
    net = network()
    net.fine.again = net.fine.weight  # type: ignore[assignment]
    net.coarse.to(memory_format=torch.channels_last)
    net.save_pretrained(tmp_path)
    fine = Fine()
    fine.again = fine.weight  # type: ignore[assignment]
    assert same(C2FNet.from_pretrained(tmp_path, Coarse(), fine), net)


def test_options_that_json_cannot_hold(tmp_path: Path) -> None:
    net = named()
    net.fine.c2f_spec = {"name": "x", "kwargs": {"norm": nn.BatchNorm2d}}  # type: ignore[assignment]
    with pytest.raises(TypeError, match="network options must be JSON values"):
        net.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_coarse_networks_alone(tmp_path: Path) -> None:
    net = named(mean=0.5, n=7)
    save_coarse(net.coarse, net.config, tmp_path / "coarse")
    found, config = load_coarse(tmp_path / "coarse")
    assert same(found, net.coarse)
    assert config == net.config
    assert not found.training
    net.save_pretrained(tmp_path / "whole")
    assert same(load_coarse(tmp_path / "whole")[0], net.coarse)
    with pytest.raises(FileExistsError, match=r"save_coarse: .* unless overwrite=True"):
        save_coarse(net.coarse, net.config, tmp_path / "coarse")
    with pytest.raises(ValueError, match="must hold fine weights, got none"):
        C2FNet.from_pretrained(tmp_path / "coarse")
    net.save_pretrained(tmp_path / "fine", include_coarse=False)
    with pytest.raises(ValueError, match="must hold coarse weights, got none"):
        load_coarse(tmp_path / "fine")
    with pytest.raises(ValueError, match="must fit the coarse network"):
        load_coarse(tmp_path / "coarse", models.build("tiny_fcn", 5, width=4))
