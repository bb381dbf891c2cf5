"""c2f train: both stages, resumed; configuration, recipe and batches."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from c2fcore import C2FConfig, C2FNet, metrics
from c2fcore._fine_loss import FineLoss
from c2fcore.checkpoint import load_coarse
from c2fcore.cli import main
from c2fcore.data.prepared import TileDataset

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

from c2fcore.train import command
from c2fcore.train.batches import Tiles
from c2fcore.train.recipe import Recipe, class_weights
from c2fcore.train.tasks import CoarseLoss, CoarseTask

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--data.batch_size=2", "--data.workers=0", "--augment.crop=32", "--trainer.max_steps=4",
         "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
         "--trainer.enable_progress_bar=false"]  # fmt: skip
COARSE = ["--coarse=tiny_fcn", "--options.width=4", "--recipe.lr=0.05", *SMALL]
FINE = ["--fine=tiny_fcn", "--options.width=4", "--c2f.window=32", "--c2f.stride=16", "--c2f.n=2",
        "--c2f.zoom=1", "--loss.windows_from=both", *SMALL]  # fmt: skip


@pytest.fixture(scope="module")
def coarse(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained stage 1."""
    out = tmp_path_factory.mktemp("coarse") / "run"
    return command.train("coarse", [f"--data.root={data}", f"--out={out}", *COARSE])


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_stage_1_leaves_a_checkpoint_its_configuration_and_scores(coarse: Path) -> None:
    network, config = load_coarse(coarse)
    assert config.small_classes == (1,)
    assert config.class_names == ("ground", "square")
    assert config.mean == (0.5, 0.5, 0.5)
    assert not network.training
    saved = (coarse.parent / "train.yaml").read_text()
    assert "coarse: tiny_fcn" in saved
    assert "lr: 0.05" in saved
    assert "weight_decay: 4.0e-05" in saved  # defaults too
    scored = [row for row in rows(coarse.parent) if row["val/small_iou"]]
    assert [row["step"] for row in scored] == ["1", "3"]
    assert {"val/iou", "val/iou_square"} <= scored[0].keys()


def test_the_saved_configuration_gives_the_same_run(data: Path, coarse: Path) -> None:
    out = coarse.parent.parent / "again"
    again = command.train("coarse", ["--config", str(coarse.parent / "train.yaml"), f"--out={out}"])
    assert same(coarse, again)


def test_stage_2_trains_the_fine_network_alone(data: Path, coarse: Path, tmp_path: Path) -> None:
    arguments = ["train", "fine", f"--coarse={coarse}", f"--data.root={data}", "--out"]
    assert main([*arguments, str(tmp_path / "run"), *FINE, "--trainer.log_every_n_steps=1"]) == 0
    net = C2FNet.from_pretrained(tmp_path / "run" / "checkpoint")
    assert (net.config.window, net.config.n, net.config.rule) == (32, 2, "normalized")
    before = load_coarse(coarse)[0].state_dict()
    assert all(torch.equal(value, before[key]) for key, value in net.coarse.state_dict().items())
    logged = rows(tmp_path / "run")
    losses = [float(row["loss"]) for row in logged if row["loss"]]
    assert len(losses) == 4
    assert all(0 < loss < 2 for loss in losses)
    assert any(row["coarse/small_iou"] for row in logged)


def test_stage_2_is_calibrated_on_training_tiles(
    data: Path, coarse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--coarse={coarse}", f"--data.root={data}", f"--out={tmp_path / 'run'}", *FINE]
    path = command.train("fine", [*arguments, "--calibrate=2"])
    printed = capsys.readouterr().out
    config = C2FNet.from_pretrained(path).config
    assert f"fine_slope {config.fine_slope:.3f}, fine_shift {config.fine_shift:.3f}" in printed
    assert (config.fine_slope, config.fine_shift) != (1.0, 0.0)


def test_stage_2_can_start_as_the_coarse_network(data: Path, coarse: Path, tmp_path: Path) -> None:
    arguments = [f"--coarse={coarse}", f"--data.root={data}", f"--out={tmp_path / 'run'}",
                 *FINE[2:], "--fine=coarse"]  # fmt: skip
    path = command.train("fine", [*arguments, "--recipe.lr=0.0000001"])
    net = C2FNet.from_pretrained(path)
    start = dict(net.coarse.named_parameters())
    tuned = dict(net.fine.network.named_parameters())
    assert start.keys() == tuned.keys()
    for key, value in tuned.items():
        torch.testing.assert_close(value, start[key], atol=1e-3, rtol=1e-3)
    assert not all(torch.equal(value, start[key]) for key, value in tuned.items())
    with pytest.raises(ValueError, match="must come without --options and --pretrained"):
        command.train("fine", [*arguments, "--options.width=4", f"--out={tmp_path / 'other'}"])


def test_no_step_leaves_the_coarse_network_as_it_is(
    data: Path, coarse: Path, tmp_path: Path
) -> None:
    arguments = [f"--coarse={coarse}", f"--data.root={data}", f"--out={tmp_path / 'run'}",
                 *FINE[2:], "--trainer.max_steps=0"]  # fmt: skip
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        command.train("fine", [*arguments, "--fine=tiny_fcn"])
    path = command.train("fine", [*arguments, "--fine=coarse"])
    net = C2FNet.from_pretrained(path)
    start = net.coarse.state_dict()
    assert all(torch.equal(v, start[k]) for k, v in net.fine.network.state_dict().items())
    assert "fine: coarse" in (tmp_path / "run" / "train.yaml").read_text()
    # What the coarse checkpoint says of its network goes along.
    other = shutil.copytree(coarse, tmp_path / "other")
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace('multiple": 32', 'multiple": 48'))
    more = [f"--coarse={other}", f"--out={tmp_path / 'run48'}", "--fine=coarse"]
    assert (
        C2FNet.from_pretrained(command.train("fine", [*arguments, *more])).config.stride_multiple
        == 48
    )


def test_mixed_precision(data: Path, coarse: Path, tmp_path: Path) -> None:
    arguments = [f"--coarse={coarse}", f"--data.root={data}", f"--out={tmp_path / 'run'}", *FINE]
    path = command.train("fine", [*arguments, "--trainer.precision=bf16-mixed"])
    held = weights(path)
    assert all(value.isfinite().all() for value in held.values())
    assert held["fine.head.weight"].dtype == torch.float32  # as in full precision


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    stage: str, data: Path, coarse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = ["--loss.sampling=random", "--c2f.window=16", "--train_n=1"]  # one of four, anew
    own = COARSE if stage == "coarse" else [f"--coarse={coarse}", *FINE, *drawn]
    arguments = [f"--data.root={data}", *own, "--trainer.max_steps=5"]
    whole = command.train(stage, [*arguments, f"--out={tmp_path / 'whole'}"])
    task = {"coarse": command.CoarseTask, "fine": command.FineTask}[stage]
    step = task.training_step

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            raise RuntimeError("power failure")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(task, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="power failure"):
            command.train(stage, [*arguments, f"--out={tmp_path / 'cut'}"])
    with pytest.raises(FileExistsError, match="holds a run already; give --resume"):
        command.train(stage, [*arguments, f"--out={tmp_path / 'cut'}"])
    done: list[int] = []
    monkeypatch.setattr(
        task, "training_step", lambda self, batch, i: done.append(i) or step(self, batch, i)
    )
    resumed = command.train(stage, [*arguments, f"--out={tmp_path / 'cut'}", "--resume"])
    assert done == [2, 3, 4]
    assert same(whole, resumed)
    last = [torch.load(tmp_path / run / "last.ckpt") for run in ("whole", "cut")]
    assert last[0]["global_step"] == last[1]["global_step"] == 5
    for key, value in last[0]["state_dict"].items():
        assert torch.equal(value, last[1]["state_dict"][key]), key


def test_validation_agrees_with_torchmetrics(data: Path, coarse: Path) -> None:
    network, config = load_coarse(coarse)
    task = CoarseTask(network, config, Recipe(), CoarseLoss())
    from torchmetrics.classification import MulticlassJaccardIndex

    theirs = MulticlassJaccardIndex(2, average="none", ignore_index=255)
    tiles = Tiles(str(data), workers=0)
    for item in TileDataset(tiles.prepared, "val"):
        image, labels = item["image"][None], item["labels"][None].clone()
        labels[:, :9] = 255
        with torch.no_grad():
            task.validation_step({"image": image, "labels": labels}, 0)
            pixels = F.pad((image / 255 - 0.5) / 0.5, (0, 64, 0, 64))  # up to a window
            logits = F.interpolate(network(pixels), (128, 128), mode="bilinear")[..., :64, :64]
        theirs.update(logits.argmax(1), labels.long())
    torch.testing.assert_close(
        metrics.iou(task.confusion.compute()).float(), theirs.compute(), atol=1e-3, rtol=0
    )


def test_means_of_validations_are_over_the_same_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel of a class that is nowhere would outweigh all others, and decide which is best."""
    task = CoarseTask(nn.Identity(), C2FConfig(4, (1, 2)), Recipe(), CoarseLoss())
    logged: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(task, "log_dict", lambda values, **options: logged.update(values))
    task.confusion.update(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 1, 1]))
    task.on_validation_epoch_end()
    assert logged["val/small_iou"] == pytest.approx(2 / 3)
    assert logged["val/iou"] == pytest.approx((1 + 2 / 3) / 2)
    assert logged["val/iou_2"] == 0
    task.on_validation_epoch_end()  # nothing to score
    assert logged["val/small_iou"] == logged["val/iou"] == 0


def test_a_validation_without_small_objects_tells_nothing(data: Path, tmp_path: Path) -> None:
    """Its IoU of 0 would never be beaten: the weights of the first validation would be kept."""
    root = tmp_path / "tiles"
    shutil.copytree(data, root)
    described = json.loads((root / "dataset.json").read_text())
    described["splits"]["val"]["pixels"] = [100, 0]
    (root / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"must hold small objects.*got val without any"):
        Tiles(str(root))
    assert Tiles(str(root), small=["ground"]).small == (0,)
    assert Tiles(str(root), val=None).val_split is None


def test_printed_configuration_and_shipped_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in command.STAGES:
        assert set(command.shipped_configs(stage)) == {"paper", "small"}
        for name in command.shipped_configs(stage):
            needed = ["--out=x", "--data.root=y", *(["--coarse=z"] if stage == "fine" else [])]
            with pytest.raises(SystemExit):
                command.train(stage, ["--config", name, *needed, "--print_config"])
            said = capsys.readouterr().out
            assert ("max_steps: 80000" in said) == (name == "paper")
            assert "root: y" in said
    with pytest.raises(SystemExit):
        command.train("coarse", ["--trainer.max_steps=7", "--config", "small", *needed[:2],
                                 "--print_config"])  # fmt: skip
    said = capsys.readouterr().out
    assert "max_steps: 7" in said  # though the configuration stands after it
    assert "val_check_interval: 250" in said
    with pytest.raises(SystemExit):
        main(["train", "fine"])
    assert "required: out, coarse, data.root" in capsys.readouterr().err


def test_a_configuration_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config must be a YAML file or one of paper, small, got"):
        command.train("coarse", ["--config", "smal", f"--out={tmp_path}", "--data.root=y"])


def test_recipe_is_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (0.01, 0.9, 4e-5)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, schedule = recipe.build([weight], 80_000)
    assert isinstance(optimizer, torch.optim.SGD)
    assert recipe.factor(40_000, 80_000) == pytest.approx(0.5**0.9)
    assert recipe.factor(80_000, 80_000) == 0
    weight.sum().backward()
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - 1 / 80_000) ** 0.9)
    assert [Recipe(warmup=3, power=0).factor(i, 9) for i in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    with pytest.raises(ValueError, match="optimizer must be"):
        Recipe(optimizer="adam")
    with pytest.raises(ValueError, match="lr must be above 0"):
        Recipe(lr=0)


def test_class_weights() -> None:
    assert class_weights("none", [9, 1], 2) is None
    assert class_weights([1, 2.5], [9, 1], 2) == (1, 2.5)
    found = class_weights("inverse", [80, 20, 0], 3)
    assert found == pytest.approx((0.625, 2.5, 0))
    assert (80 * found[0] + 20 * found[1]) / 100 == pytest.approx(1)
    # The rarer small class counts as much as the other; background stays at 1.
    assert class_weights("small", [900, 80, 20], 3, (1, 2)) == pytest.approx((1, 0.625, 2.5))
    assert class_weights("small", [9, 0, 0], 3, (1, 2)) is None
    with pytest.raises(ValueError, match="must have 3 weights, got 2"):
        class_weights([1, 2], [9, 1, 1], 3)


def test_coarse_loss_by_hand() -> None:
    torch.manual_seed(0)
    main_, aux = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    labels[0, 0] = 255
    weight = (1.0, 2.0, 0.5)
    expected = [
        F.cross_entropy(t, labels.long(), torch.tensor(weight), ignore_index=255)
        for t in (main_, aux)
    ]
    found = CoarseLoss(class_weights=weight)([main_, aux], labels)
    torch.testing.assert_close(found, expected[0] + 0.4 * expected[1])
    assert CoarseLoss()([main_], torch.full_like(labels, 255)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": (1.0, -1.0)}, r"class_weights must be at least 0, got \(1.0, -1.0\)"),
        ({"class_weights": (1.0, float("nan"))}, "class_weights must be finite, got nan"),
        ({"aux_weight": -0.1}, "aux_weight must be at least 0, got -0.1"),
        ({"boundary_weight": 0.0}, "boundary_weight must be above 0, got 0.0"),
        ({"boundary_px": 0}, "boundary_px must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("loss", [CoarseLoss, FineLoss])
def test_weights_of_both_losses_are_checked(
    loss: type, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loss(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--trainer.max_steps=0"], "max_steps must be at least 1, got 0"),
        (["--data.train=test"], "--data.train must be one of train, val, got test"),
        (["--data.val=test"], "--data.val must be one of train, val, or none, got test"),
        (["--data.batch_size=0"], "batch_size must be at least 1"),
        (["--data.workers=-1"], "workers must be in 0.."),
        (["--data.workers=1000000"], "16 for each processor, got 1000000"),
        (["--data.small=[car]"], "names, or ids in 0..1, of ground, square, got car"),
        (["--data.small=square,car"], "names, or ids in 0..1, of ground, square, got car"),
        (["--coarse=resnet"], "name must be one of"),
        (["--resume"], "--resume needs"),
    ],
)
def test_refused(change: list[str], message: str, data: Path, tmp_path: Path) -> None:
    arguments = [f"--data.root={data}", f"--out={tmp_path / 'run'}", *COARSE, *change]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command.train("coarse", arguments)
    assert not (tmp_path / "run").exists()
