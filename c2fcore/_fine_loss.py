"""The loss of stage 2: is a pixel of a small class or not, inside the windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _checks, _stages, ops
from .config import C2FConfig
from .windows import Windows

WINDOWS_FROM: Final = ("coarse", "labels", "both")
SAMPLING: Final = ("select", "random")
RESOLUTIONS: Final = ("labels", "patch")
_WHO: Final = "C2FNet"


@dataclass(frozen=True)
class FineLoss:
    """How stage 2 chooses its examples and weighs their pixels.

    Attributes:
        windows_from: "coarse", windows of the coarse answer, as at inference; "labels", windows of
            the true labels; "both", windows of small objects in either, so that the fine network
            also sees what the coarse one missed.
        sampling: "select", the windows that the configuration's strategy takes; "random", n of
            those with min_pixels, drawn anew each time (torch's generator).
        negatives: further windows per image, greedily where the coarse network takes most
            background for small objects.
        pos_weight: weight of foreground pixels; 1 if None.
        class_weights: weight of a pixel by its true class, one per class; all 1 if None.
        boundary_weight: factor for pixels within `boundary_px` of a border between small objects
            and the rest.
        boundary_px: that distance, at full resolution.
        resolution: "labels", logits are resized to the labels' native k x k; "patch", labels are
            resized (nearest) to the patch's p x p, as the paper does at zooms other than 1.
        aux_weight: of the auxiliary logits that some networks give in training.
    """

    windows_from: str = "coarse"
    sampling: str = "select"
    negatives: int = 0
    pos_weight: float | None = None
    class_weights: tuple[float, ...] | None = None
    boundary_weight: float = 1.0
    boundary_px: int = 2
    resolution: str = "labels"
    aux_weight: float = 0.4

    def __post_init__(self) -> None:
        """Checks every field."""
        _checks.choice(_WHO, "windows_from", self.windows_from, WINDOWS_FROM)
        _checks.choice(_WHO, "sampling", self.sampling, SAMPLING)
        _checks.choice(_WHO, "resolution", self.resolution, RESOLUTIONS)
        _checks.integer(_WHO, "negatives", self.negatives, 0)
        if self.pos_weight is not None:
            _check_above_0(_WHO, "pos_weight", self.pos_weight)
        check_weights(
            _WHO, self.class_weights, self.boundary_weight, self.boundary_px, self.aux_weight
        )


def check_weights(
    who: str,
    class_weights: tuple[float, ...] | None,
    boundary_weight: float,
    boundary_px: int,
    aux_weight: float,
) -> None:
    """What the losses of both stages weigh with: the fields of `FineLoss` of these names.

    Raises:
        ValueError: a value out of range.
        TypeError: no number.
    """
    _checks.integer(who, "boundary_px", boundary_px, 1)
    _check_above_0(who, "boundary_weight", boundary_weight)
    if not _checks.number(who, "aux_weight", aux_weight) >= 0:
        raise ValueError(f"{who}: aux_weight must be at least 0, got {aux_weight}")
    if class_weights is None:
        return
    weights = _checks.numbers_of(who, "class_weights", class_weights)
    if isinstance(weights, float):
        raise TypeError(f"{who}: class_weights must be one per class, got {weights}")
    if not all(weight >= 0 for weight in weights):
        raise ValueError(f"{who}: class_weights must be at least 0, got {tuple(weights)}")


def _check_above_0(who: str, name: str, value: float) -> None:
    if not _checks.number(who, name, value) > 0:
        raise ValueError(f"{who}: {name} must be above 0, got {value}")


class Examples(NamedTuple):
    """What stage 2 learns from: P windows."""

    patches: Tensor  # [P, C, p, p]
    targets: Tensor  # uint8 [P, k, k]
    weights: Tensor | None  # float32 [P, k, k]


def fine_loss(
    coarse: nn.Module,
    fine: nn.Module,
    config: C2FConfig,
    image: Tensor,
    labels: Tensor,
    options: FineLoss,
) -> Tensor:
    """See `C2FNet.fine_loss`."""
    _stages.check_image(image)
    with torch.no_grad():
        labels = checked_labels(image, labels, config.ignore_index)
        found = examples(coarse, fine, config, image, labels, options)
        # Other processes, which may have windows, wait for this one in each of these layers.
        waits = fine.training and any(isinstance(m, nn.SyncBatchNorm) for m in fine.modules())
        if found is None and waits:
            found = _ignored(fine, config, image)
    if found is None:
        return _zero(fine, image.device)
    logits, *further = _stages.all_fine_logits(fine, found.patches, config)
    loss = _binary_loss(logits, found, options)
    for auxiliary in further if fine.training else ():
        loss = loss + options.aux_weight * _binary_loss(auxiliary, found, options)
    return loss


def examples(
    coarse: nn.Module,
    fine: nn.Module,
    config: C2FConfig,
    image: Tensor,
    labels: Tensor,
    options: FineLoss,
) -> Examples | None:
    """The examples of all windows in use; None if there are none."""
    frame = _stages.make_frame(image, config)
    labels = _stages.pad(labels, frame.size, _stages.IGNORED)
    weights = _pixel_weights(labels, config, options)
    pieces = []
    for windows in _window_sets(coarse, config, image, labels, frame.size, options):
        used: list[int] = windows.num.tolist()
        if not any(used):
            continue
        n = max(used)
        leading = _stages.part(windows, 0, len(used), 0, n)
        rows = _stages.used_rows(used, n)
        kept = torch.tensor(rows, device=labels.device)
        targets: Tensor = ops.extract_targets(
            labels,
            leading,
            config.small_classes,
            ignore_index=_stages.IGNORED,
            backend=config.backend,
        )[kept]
        cut = None
        if weights is not None:
            cut = ops.extract_patches(weights, leading, mode="nearest", backend=config.backend)
            cut = cut[kept, 0]
        pieces.append(Examples(_stages.cut(frame, leading, rows, fine, config), targets, cut))
    if not pieces:
        return None
    found = Examples(
        torch.cat([piece.patches for piece in pieces]),
        torch.cat([piece.targets for piece in pieces]),
        None
        if weights is None
        else torch.cat([p.weights for p in pieces if p.weights is not None]),
    )
    if len(found.patches) == 1 and fine.training:
        # Batch norm after a global pooling cannot train on a single patch; twice the same patch
        # leaves the mean as it is.
        found = Examples(*(None if t is None else torch.cat((t, t)) for t in found))  # type: ignore[arg-type]
    return found


def _ignored(fine: nn.Module, config: C2FConfig, image: Tensor) -> Examples:
    """The first window, of which no pixel counts; twice, as above."""
    k, one = config.window, torch.ones(1, dtype=torch.int32, device=image.device)
    windows = Windows(one.new_zeros((1, 1, 2)), one[None], one, k)
    patch = _stages.cut(_stages.make_frame(image, config), windows, [0], fine, config)
    targets = torch.full((2, k, k), _stages.IGNORED, dtype=torch.uint8, device=image.device)
    return Examples(torch.cat((patch, patch)), targets, None)


def _pixel_weights(labels: Tensor, config: C2FConfig, options: FineLoss) -> Tensor | None:
    """Weight of every pixel, float32 [B, 1, fH, fW]; None if all are 1."""
    weights = None
    if options.class_weights is not None:
        if len(options.class_weights) != config.num_classes:
            raise ValueError(
                f"{_WHO}: class_weights must have num_classes={config.num_classes} values, "
                f"got {len(options.class_weights)}"
            )
        # Ids that are no class count as background of weight 1.
        table = torch.ones(257, dtype=torch.float32, device=labels.device)
        table[: config.num_classes] = table.new_tensor(options.class_weights)
        known = (labels >= 0) & (labels < config.num_classes)
        weights = table[torch.where(known, labels.long(), 256)][:, None]
    if options.boundary_weight != 1.0:
        small = _isin(labels, config).float()[:, None]
        near = near_border(small, options.boundary_px)
        factor = torch.where(near, small.new_tensor(options.boundary_weight), 1.0)
        weights = factor if weights is None else weights * factor
    return weights


def near_border(values: Tensor, distance_px: int) -> Tensor:
    """Bool [B, 1, H, W]: pixels within that distance of one of another value; -inf outside."""
    side = 2 * distance_px + 1
    highest, lowest = (F.max_pool2d(v, side, 1, distance_px) for v in (values, -values))
    return highest > -lowest


def _window_sets(
    coarse: nn.Module,
    config: C2FConfig,
    image: Tensor,
    labels: Tensor,
    frame_size: tuple[int, int],
    options: FineLoss,
) -> list[Windows]:
    """Windows of the coarse answer, of `labels` (of frame size) or of either; and of false alarms.

    Which class it is does not matter to a window: maps that are made here hold one of C, and one
    outside.
    """
    inside, outside = config.small_classes[0], _stages.outside_class(config)

    def chosen(seg: Tensor, picked: C2FConfig = config) -> Windows:
        if options.sampling == "random" and picked is config:
            return _random_windows(seg, frame_size, config)
        windows: Windows = _stages.select(seg, frame_size, picked)
        return windows

    if options.windows_from == "labels" and not options.negatives:
        return [chosen(labels)]
    true_size = (image.shape[-2], image.shape[-1])
    logits, size = _stages.coarse_logits(coarse, image, config)
    plain = options.windows_from == "coarse" and options.sampling == "select"
    if plain and not options.negatives:
        windows, _ = _stages.choose_windows(logits, size, true_size, frame_size, False, config)
        return [windows]
    answer = _stages.crop(_stages.coarse_labels(logits, size, config), true_size)
    answer = _stages.pad(answer, frame_size, outside)
    true, found = _isin(labels, config), _isin(answer, config)
    wanted = {"coarse": found, "labels": true, "both": true | found}[options.windows_from]
    sets = [chosen(torch.where(wanted, inside, outside).to(torch.uint8))]
    if options.negatives:
        alarms = found & ~true & (labels != _stages.IGNORED)
        fewer = config.replace(n=options.negatives, strategy="cover")
        sets.append(chosen(torch.where(alarms, inside, outside).to(torch.uint8), fewer))
    return sets


def _random_windows(seg: Tensor, size: tuple[int, int], config: C2FConfig) -> Windows:
    """N of the candidate windows with min_pixels, each as likely as any other."""
    k, s = config.window, config.stride
    counts: Tensor = ops.count_windows(
        seg, config.small_classes, window=k, stride=s, edge=config.edge, backend=config.backend
    )
    columns = counts.shape[2]
    flat = counts.flatten(1)
    n = min(config.n or flat.shape[1], flat.shape[1])
    # Windows without objects draw below all others and so come last.
    drawn = torch.rand(flat.shape, dtype=torch.float32, device=flat.device)
    draw = drawn + (flat >= config.min_pixels)
    index = draw.topk(n, dim=1).indices
    y = (index // columns * s).clamp(max=size[0] - k)
    x = (index % columns * s).clamp(max=size[1] - k)
    num = (flat >= config.min_pixels).sum(1).clamp(max=n)
    used = torch.arange(n, device=flat.device) < num[:, None]
    origins = torch.where(used[..., None], torch.stack((y, x), dim=-1), 0).int()
    return Windows(origins, torch.where(used, flat.gather(1, index), 0).int(), num.int(), k)


def _isin(labels: Tensor, config: C2FConfig) -> Tensor:
    return torch.isin(labels.long(), torch.tensor(config.small_classes, device=labels.device))


def _binary_loss(logits: Tensor, examples: Examples, options: FineLoss) -> Tensor:
    """Weighted mean of binary cross-entropy over the pixels that are not ignored."""
    targets, pixel_weights = examples.targets, examples.weights
    if options.resolution == "patch":
        side = examples.patches.shape[-2:]
        targets = _nearest(targets, side)
        if pixel_weights is not None:
            pixel_weights = _nearest(pixel_weights, side)
    foreground = foreground_at(logits, (targets.shape[-2], targets.shape[-1]))
    counted = targets != _stages.IGNORED
    weight = None if options.pos_weight is None else foreground.new_tensor(options.pos_weight)
    loss = F.binary_cross_entropy_with_logits(
        foreground[:, 0], (targets == 1).float(), pos_weight=weight, reduction="none"
    )
    # where, not a product: a NaN under an ignored pixel must not spread.
    loss = torch.where(counted, loss, 0.0)
    if pixel_weights is None:
        return loss.sum() / counted.sum().clamp(min=1)
    pixel_weights = torch.where(counted, pixel_weights, 0.0)
    total = pixel_weights.sum()
    return (loss * pixel_weights).sum() / torch.where(total > 0, total, 1.0)


def _nearest(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values [P, k, k] at another size; "nearest" alone would take those before, at zoom 1.5."""
    return F.interpolate(values[:, None], size=tuple(size), mode="nearest-exact")[:, 0]


def foreground_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Foreground logits [P, 1, *size], float32, of logits [P, 1 or 2, hf, wf]."""
    logits = logits.float()
    # Softmax over two channels is the sigmoid of their difference.
    foreground = logits[:, 1:2] - logits[:, 0:1] if logits.shape[1] == 2 else logits
    if tuple(foreground.shape[-2:]) == size:
        return foreground
    return F.interpolate(foreground, size=size, mode="bilinear", align_corners=False)


def _zero(fine: nn.Module, device: torch.device) -> Tensor:
    """0, with a zero gradient of every parameter: DistributedDataParallel waits for one."""
    terms = [p.sum().float() * 0.0 for p in fine.parameters() if p.requires_grad]
    return (
        torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float32, device=device)
    )


def checked_labels(image: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Checks a label map [B, H, W]; returns it with ignored pixels as 255."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"C2FNet: labels must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype not in _checks.LABEL_DTYPES:
        raise TypeError(f"C2FNet: labels must be uint8/int16/int32/int64, got {labels.dtype}")
    expected = (image.shape[0], *image.shape[-2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"C2FNet: labels must be [B, H, W] = {expected} like the image, "
            f"got {tuple(labels.shape)}"
        )
    _checks.same_device("C2FNet", "labels", labels, image)
    limits = torch.iinfo(labels.dtype)
    if ignore_index == _stages.IGNORED or not limits.min <= ignore_index <= limits.max:
        return labels
    return labels.masked_fill(labels == ignore_index, _stages.IGNORED)
