"""What Lightning trains: stage 1, and stage 2 on top of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from lightning import pytorch as pl
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from .. import _checks, _stages, checkpoint, metrics
from .._fine_loss import FineLoss, check_weights, near_border
from ..config import C2FConfig, names_of
from ..models.outputs import all_logits
from ..pipeline import C2FNet
from .recipe import Recipe

Batch = Mapping[str, Any]

NORMALISED: Final = "normalised"  # in the state of a run


@dataclass(frozen=True)
class CoarseLoss:
    """Cross-entropy at full resolution, of the logits taken there.

    Attributes:
        class_weights: one per class; all 1 if None.
        aux_weight: of the auxiliary logits that some networks give in training.
        boundary_weight: factor for pixels within `boundary_px` of a pixel of another class.
        boundary_px: that distance.
    """

    class_weights: tuple[float, ...] | None = None
    aux_weight: float = 0.4
    boundary_weight: float = 1.0
    boundary_px: int = 2

    def __post_init__(self) -> None:
        """Checks every field."""
        check_weights(
            "loss", self.class_weights, self.boundary_weight, self.boundary_px, self.aux_weight
        )

    def __call__(self, outputs: list[Tensor], labels: Tensor) -> Tensor:
        """Loss of logits [B, N, h, w], main first, for labels [B, H, W] where 255 is ignored."""
        weight = None
        if self.class_weights is not None:
            weight = torch.tensor(self.class_weights, dtype=torch.float32, device=labels.device)
        target = labels.long()
        pixels = self._pixel_weights(target, weight)
        total = pixels.sum()
        loss = torch.zeros((), device=labels.device)
        for i, logits in enumerate(outputs):
            full = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear")
            each = F.cross_entropy(full, target, ignore_index=_stages.IGNORED, reduction="none")
            # A batch of nothing but ignored pixels, or of classes of weight 0, is 0 and not NaN.
            mean = (each * pixels).sum() / torch.where(total > 0, total, 1.0)
            loss = loss + (self.aux_weight if i else 1.0) * mean
        return loss

    def _pixel_weights(self, target: Tensor, weight: Tensor | None) -> Tensor:
        """Weight of every pixel, float32 [B, H, W]; 0 where ignored."""
        counted = target != _stages.IGNORED
        pixels = counted.float()
        if weight is not None:
            pixels = pixels * weight[torch.where(counted, target, 0)]
        if self.boundary_weight != 1.0:
            near = near_border(target.float()[:, None], self.boundary_px)[:, 0]
            pixels = pixels * torch.where(near, self.boundary_weight, 1.0)
        return pixels


class _Task(pl.LightningModule):
    """What both stages share: the recipe, and IoU on validation tiles."""

    def __init__(self, config: C2FConfig, recipe: Recipe) -> None:
        super().__init__()
        self.c2f, self.recipe = config, recipe
        self.seed = 0
        self._loss: Tensor | None = None  # of the step before

    def configure_optimizers(self) -> Any:
        steps = self.trainer.max_steps
        optimizer, schedule = self.recipe.build(self.trained(), steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def trained(self) -> Iterator[nn.Parameter]:
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        raise NotImplementedError

    def on_train_start(self) -> None:
        # The state of a run that is to be longer now holds the rate of the schedule before.
        step, steps = self.trainer.global_step, self.trainer.max_steps
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.recipe.lr * self.recipe.factor(step, steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Drawn windows and dropout depend on seed, process and step alone: also in a resumed run,
        # where batch_idx may begin anew.
        batches = self.trainer.accumulate_grad_batches
        number = self.trainer.global_step * batches + batch_idx % batches
        torch.manual_seed(hash((self.seed, self.trainer.global_rank, number)) % 2**63)
        group = self.trainer.optimizers[0].param_groups[0]
        self.log("lr", group["lr"])

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # trainer.max_time may have passed between two batches of a step: the state would not be
        # whole. It is looked at after each of them.
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            self.trainer.should_stop = False

    def log_loss(self, loss: Tensor, batch: Batch) -> Tensor:
        self.check_finite()
        self._loss = loss.detach()
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def check_finite(self) -> None:
        """The loss of the step before was a number; by now it is known, so nothing waits for it.

        Raises:
            ValueError: it was none.
        """
        loss, self._loss = self._loss, None
        if loss is not None and not bool(loss.isfinite()):
            raise ValueError(
                f"the loss must be finite, got {float(loss)} by step {self.trainer.global_step}: "
                f"start again with a lower --recipe.lr, or go on from the last state that was "
                f"saved (--resume) with --trainer.gradient_clip_val 1"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Only a state that training can go on from replaces the one before."""
        self.check_finite()
        if not all(bool(parameter.isfinite().all()) for parameter in self.trained()):
            self._loss = torch.tensor(float("nan"))
            self.check_finite()
        checkpoint[NORMALISED] = self.normalised()

    def normalised(self) -> dict[str, Any]:
        """How pixels become what the networks see."""
        return {name: getattr(self.c2f, name) for name in ("scale", "mean", "std")}

    def log_iou(self, confusion: Metric, prefix: str) -> None:
        """Logs IoU: mean of all classes, of the small ones, and each small class.

        Means are over the classes of the truth, as those of `c2f eval`: over the same ones in every
        validation, of which the best is kept.
        """
        matrix = confusion.compute().cpu()
        per_class, known = metrics.iou(matrix).float(), matrix.sum(1) > 0
        confusion.reset()
        small = list(self.c2f.small_classes)
        names = names_of(self.c2f)
        values = {
            f"{prefix}/iou": _mean(per_class[known]),
            f"{prefix}/small_iou": _mean(per_class[small][known[small]]),
            **{f"{prefix}/iou_{names[c]}": per_class[c] for c in small},
        }
        # The matrix is summed over all processes already.
        self.log_dict(values, rank_zero_only=False, sync_dist=False)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else torch.zeros(())


def _confusion(config: C2FConfig) -> Metric:
    return MulticlassConfusionMatrix(config.num_classes, ignore_index=255, validate_args=False)


class CoarseTask(_Task):
    """Stage 1: a segmentation network of all classes.

    Args:
        network: its logits may be at lower resolution than the image.
        config: classes and normalisation.
        recipe: optimiser and schedule.
        loss: of its logits.
    """

    def __init__(
        self, network: nn.Module, config: C2FConfig, recipe: Recipe, loss: CoarseLoss
    ) -> None:
        super().__init__(config, recipe)
        self.network, self.loss = network, loss
        self.confusion = _confusion(config)

    def trained(self) -> Iterator[nn.Parameter]:
        """The parameters to train."""
        return self.network.parameters()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch of crops."""
        image, labels = batch["image"], batch["labels"]
        multiple = _stages.multiple_of(self.network, self.c2f)
        height, width = (_stages.round_up(side, multiple) for side in labels.shape[-2:])
        size = (height, width)
        pixels = _stages.pad(_stages.normalise(image, self.c2f), size)
        labels = _stages.pad(labels, size, _stages.IGNORED)
        pixels = _stages.fed(pixels, self.network, self.c2f)
        found = all_logits(self.network(pixels), "coarse network")
        return self.log_loss(self.loss(found, labels), batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the answer's pixels."""
        image, labels = batch["image"], batch["labels"]
        logits, size = _stages.coarse_logits(self.network, image, self.c2f)
        found = _stages.coarse_labels(logits, size, self.c2f)
        found = _stages.crop(found, (labels.shape[-2], labels.shape[-1]))
        self.confusion.update(found.long(), labels.long())

    def on_validation_epoch_end(self) -> None:
        """Logs the IoU."""
        self.log_iou(self.confusion, "val")

    def export(self, folder: Path) -> None:
        """Writes a checkpoint of stage 1."""
        checkpoint.save_coarse(self.network, self.c2f, folder, overwrite=True)


class FineTask(_Task):
    """Stage 2: the fine network of a C2FNet, on windows; the coarse one is frozen.

    Args:
        net: both networks.
        recipe: optimiser and schedule.
        loss: which windows, and the weight of each pixel.
        train_n: windows per image in training; that of the configuration if not given.
    """

    def __init__(
        self, net: C2FNet, recipe: Recipe, loss: FineLoss, train_n: int | None = None
    ) -> None:
        super().__init__(net.config, recipe)
        self.net, self.loss = net, loss
        if train_n is not None:
            _checks.integer("loss", "train_n", train_n, 1)
        self.train_n = train_n
        self.confusion, self.coarse_confusion = _confusion(net.config), _confusion(net.config)

    def trained(self) -> Iterator[nn.Parameter]:
        """The parameters to train."""
        return self.net.fine_parameters()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of the windows of a batch of crops."""
        if self.train_n is not None:
            self.net.config = self.c2f.replace(n=self.train_n)
        loss = self.net.fine_loss(batch["image"], batch["labels"], self.loss)
        self.net.config = self.c2f
        return self.log_loss(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the pixels of both answers."""
        answer = self.net.detailed(batch["image"])
        labels = batch["labels"].long()
        self.confusion.update(answer.labels.long(), labels)
        self.coarse_confusion.update(answer.coarse_labels.long(), labels)

    def on_validation_epoch_end(self) -> None:
        """Logs the IoU of both answers."""
        self.log_iou(self.confusion, "val")
        self.log_iou(self.coarse_confusion, "coarse")

    def calibrate(self, tiles: Iterable[Batch]) -> None:
        """`C2FNet.calibrate` on single tiles; says why where that cannot be done."""
        self.net.eval()
        device = next(self.net.fine.parameters()).device
        pairs = ((t["image"][None].to(device), t["labels"][None].to(device)) for t in tiles)
        try:
            slope, shift = self.net.calibrate(pairs)
        except ValueError as error:
            print(f"not calibrated: {error}")
        else:
            print(f"calibrated: fine_slope {slope:.3f}, fine_shift {shift:.3f}")

    def export(self, folder: Path) -> None:
        """Writes a checkpoint of both networks."""
        self.net.save_pretrained(folder, overwrite=True)
