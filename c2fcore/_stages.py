"""The steps of the two-stage network, one function each; `pipeline.C2FNet` strings them together.

Sizes: (H, W) is the image. Windows are chosen and patches cut in a frame (fH, fW) that differs from
it only if a side is below the window. The coarse network sees (H', W'), the frame rounded up to its
multiple.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _channels, _checks, ops
from .config import C2FConfig
from .models.outputs import all_logits, logits_of
from .windows import Windows, grid_shape

IGNORED = 255  # how the ops see ignored pixels, whatever the ignore index is

_IMAGE_DTYPES = _checks.FLOAT_DTYPES | _checks.INTEGER_IMAGE_DTYPES


class Frame(NamedTuple):
    """What patches are cut from."""

    pixels: Tensor  # [B, C, fH, fW], raw, or already normalised where it had to be padded
    normalise: dict[str, Any]  # scale, mean and std that are still to be applied
    size: tuple[int, int]  # (fH, fW), at least a window each way


def check_image(image: Tensor) -> None:
    """The image is a batch that the network can take.

    Raises:
        TypeError: no tensor, or of another dtype.
        ValueError: not [B, C, H, W] with pixels.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"C2FNet: image must be a torch.Tensor, got {type(image).__name__}")
    if image.dtype not in _IMAGE_DTYPES:
        raise TypeError(
            "C2FNet: image must be uint8/uint16/int16/float16/bfloat16/float32/float64, "
            f"got {image.dtype}"
        )
    if image.layout is not torch.strided or image.is_nested:
        raise TypeError(f"C2FNet: image must be a dense tensor, got {image.layout}")
    if image.ndim != 4 or 0 in image.shape[1:]:
        raise ValueError(
            f"C2FNet: image must be [B, C, H, W] with pixels, got shape {tuple(image.shape)}"
        )


def check_memory(who: str, image: Tensor) -> None:
    """The image has pixels to be read.

    Raises:
        ValueError: it is on the device meta.
    """
    if image.is_meta:
        raise ValueError(
            f"{who}: image must have memory, since the host reads how many patches there are, "
            "got device meta"
        )


def normalise(image: Tensor, config: C2FConfig) -> Tensor:
    """(v * scale - mean) / std in float32, as `ops.extract_patches` does it."""
    pixels, scale = image.float(), scale_of(image.dtype, config)
    if scale != 1.0:
        pixels = pixels * scale
    mean = _checks.per_channel("C2FNet", "mean", config.mean, image.shape[1])
    if mean is not None:
        pixels = pixels - pixels.new_tensor(mean)[:, None, None]
    std = _checks.per_channel("C2FNet", "std", config.std, image.shape[1])
    if std is not None:
        pixels = pixels / pixels.new_tensor(std)[:, None, None]
    return pixels


def scale_of(dtype: torch.dtype, config: C2FConfig) -> float:
    """The factor on raw pixels of this dtype."""
    if config.scale is not None:
        return config.scale
    return 1 / 255 if dtype == torch.uint8 else 1.0


def make_frame(image: Tensor, config: C2FConfig) -> Frame:
    """The image as patches are cut from it."""
    height, width = image.shape[-2:]
    size = (max(height, config.window), max(width, config.window))
    if size != (height, width):
        # Padding is zero after normalisation: an integer image may have no such value.
        return Frame(pad(normalise(image, config), size), {"scale": 1.0}, size)
    pixels = image.float() if image.dtype == torch.float64 else image
    remaining = {"scale": config.scale, "mean": config.mean, "std": config.std}
    return Frame(pixels, remaining, size)


def coarse_logits(
    network: nn.Module, image: Tensor, config: C2FConfig
) -> tuple[Tensor, tuple[int, int]]:
    """Coarse logits [B, N, h, w] of the padded image, and its size (H', W').

    Raises:
        TypeError: an output form that is not known.
        ValueError: an image of other channels than the network takes; not num_classes channels,
            not one map per image, a map above (H', W'), or a network on another device.
    """
    true_size = (image.shape[-2], image.shape[-1])
    _channels.check("C2FNet", _channels.needed(config, network), image.shape[1], true_size)
    size = coarse_size(network, true_size, config)
    if not len(image):
        none = (0, config.num_classes, 1, 1)
        return torch.zeros(none, dtype=torch.float32, device=image.device), size
    pixels = fed(pad(normalise(image, config), size), network, config)
    if pixels is image:  # networks may write into their input, and patches are cut from it
        pixels = image.clone()
    answer = _channels.call("C2FNet", network, pixels, true_size)
    return check_coarse(answer, len(image), size, config), size


def coarse_size(
    network: nn.Module, true_size: tuple[int, int], config: C2FConfig
) -> tuple[int, int]:
    """(H', W'), the size at which the coarse network sees images of `true_size`."""
    multiple = multiple_of(network, config)
    height, width = (round_up(max(side, config.window), multiple) for side in true_size)
    return height, width


def check_coarse(answer: Any, batch: int, size: tuple[int, int], config: C2FConfig) -> Tensor:
    """The logits in what the coarse network answered; see `coarse_logits`."""
    logits = logits_of(answer, "coarse network")
    if logits.shape[1] != config.num_classes:
        raise ValueError(
            f"C2FNet: the coarse network must return num_classes={config.num_classes} channels, "
            f"got {logits.shape[1]}"
        )
    if len(logits) != batch:
        raise ValueError(
            f"C2FNet: the coarse network must return one map per image, got {len(logits)} "
            f"for {batch}"
        )
    if logits.shape[2] > size[0] or logits.shape[3] > size[1]:
        raise ValueError(
            f"C2FNet: the coarse network's map must not be above its input's size {size}, "
            f"got {tuple(logits.shape[2:])}"
        )
    return logits


def choose_windows(
    logits: Tensor,
    size: tuple[int, int],
    true_size: tuple[int, int],
    frame_size: tuple[int, int],
    need_labels: bool,
    config: C2FConfig,
) -> tuple[Windows, Tensor | None]:
    """Windows on the true image, and the labels [B, H', W'] if needed (or made anyway)."""
    if size == true_size:
        found = select(logits, size, config, _return_labels=need_labels)
        return found if need_labels else (found, None)
    # Logits of a padded image cannot be cropped exactly at their own resolution; labels can.
    labels = coarse_labels(logits, size, config)
    region = pad(crop(labels, true_size), frame_size, outside_class(config))
    windows: Windows = select(region, frame_size, config)
    return windows, labels


def coarse_labels(logits: Tensor, size: tuple[int, int], config: C2FConfig) -> Tensor:
    """The coarse answer, uint8 [B, H', W'].

    One slot of disjoint windows is the cheapest way to get it without an N x H' x W' tensor.
    """
    _, labels = ops.select_windows(
        logits,
        config.small_classes,
        window=config.window,
        stride=config.window,
        n=1,
        strategy="all",
        size=size,
        backend=config.backend,
        _return_labels=True,
    )
    found: Tensor = labels
    return found


def step_and_slots(size: tuple[int, int], config: C2FConfig) -> tuple[int, int]:
    """Distance of candidate windows, and how many are chosen of each image at most."""
    step = config.window if config.strategy == "all" else config.stride
    rows, columns = grid_shape(*size, config.window, step, config.edge)
    return step, rows * columns if config.n is None else min(config.n, rows * columns)


def select(seg: Tensor, size: tuple[int, int], config: C2FConfig, **private: Any) -> Any:
    """`ops.select_windows` as configured."""
    step, n = step_and_slots(size, config)
    return ops.select_windows(
        seg,
        config.small_classes,
        window=config.window,
        stride=step,
        n=n,
        strategy=config.strategy,
        min_pixels=config.min_pixels,
        size=size,
        edge=config.edge,
        backend=config.backend,
        **private,
    )


def used_rows(used: list[int], n: int) -> list[int]:
    """Indices b * n + j of the slots in use, ascending."""
    return [b * n + j for b, num in enumerate(used) for j in range(num)]


def cut(
    frame: Frame, windows: Windows, rows: list[int], fine: nn.Module, config: C2FConfig
) -> Tensor:
    """Patches [len(rows), C, p, p] of the slots `rows` (b * n + j, ascending) for `fine`."""
    n = windows.origins.shape[1]
    first, last = rows[0] // n, rows[-1] // n
    if len(rows) == (last - first + 1) * n:  # all slots of these images: one call
        return extract(frame, part(windows, first, last + 1, 0, n), first, fine, config)
    pieces = []
    for b in range(first, last + 1):
        slots = [row - b * n for row in rows if row // n == b]
        if slots:
            one = part(windows, b, b + 1, slots[0], slots[-1] + 1)
            pieces.append(extract(frame, one, b, fine, config))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def part(windows: Windows, first: int, last: int, start: int, end: int) -> Windows:
    """Slots start..end-1 of images first..last-1."""
    return Windows(
        windows.origins[first:last, start:end],
        windows.counts[first:last, start:end],
        (windows.num[first:last] - start).clamp(0, end - start),
        windows.window,
    )


def extract(
    frame: Frame, windows: Windows, first: int, fine: nn.Module, config: C2FConfig
) -> Tensor:
    """Patches of `windows`, which are those of the images from `first` on."""
    dtype = dtype_of(fine)
    patches: Tensor = ops.extract_patches(
        frame.pixels[first : first + len(windows.num)],
        windows,
        zoom=config.zoom,
        mode=config.mode,
        **frame.normalise,
        dtype=torch.float32 if dtype == torch.float64 else dtype,
        channels_last=config.channels_last,
        backend=config.backend,
    )
    return patches


def fine_logits(network: nn.Module, patches: Tensor, config: C2FConfig) -> Tensor:
    """Calibrated logits [P, 1 or 2, hf, wf] that stand for whole patches [P, C, p, p].

    Raises:
        TypeError: an output form that is not known.
        ValueError: not 1 or 2 channels, not one map per patch, or a network on another device.
    """
    logits = all_fine_logits(network, patches, config)[0]
    if config.fine_slope == 1.0 and config.fine_shift == 0.0:
        return logits
    scaled = logits * config.fine_slope
    # The last channel is the foreground; two channels stand for the difference of their logits.
    scaled[:, -1:] += config.fine_shift
    return scaled


def joined(answers: Iterable[Tensor], patches: int) -> Tensor:
    """What `fine_logits` gave chunk after chunk, as one tensor of `patches` maps.

    Each is copied before the next is made: networks may answer in the same memory every time.

    Raises:
        ValueError: maps of different shapes.
    """
    found, filled = None, 0
    for answer in answers:
        if len(answer) == patches:
            return answer
        if found is None:
            found = answer.new_empty((patches, *answer.shape[1:]))
        if answer.shape[1:] != found.shape[1:]:
            shapes = sorted(tuple(t.shape[1:]) for t in (found, answer))
            raise ValueError(
                "C2FNet: the fine network must return maps of one shape for patches of one size, "
                f"got {shapes}"
            )
        found[filled : filled + len(answer)] = answer
        filled += len(answer)
    assert found is not None
    return found


def all_fine_logits(network: nn.Module, patches: Tensor, config: C2FConfig) -> list[Tensor]:
    """The logits as the network gives them, followed by auxiliary ones of a network in training."""
    side = patches.shape[-1]
    padded = round_up(side, multiple_of(network, config))
    pixels = pad(patches, (padded, padded))
    found = all_logits(network(fed(pixels, network, config)), "fine network")
    for logits in found:
        if logits.shape[1] not in (1, 2):
            raise ValueError(
                f"C2FNet: the fine network must return 1 or 2 channels, got {logits.shape[1]}"
            )
        if len(logits) != len(patches):
            raise ValueError(
                f"C2FNet: the fine network must return one map per patch, got {len(logits)} "
                f"for {len(patches)}"
            )
    if padded == side:
        return found
    whole = (F.interpolate(t.float(), size=(padded, padded), mode="bilinear") for t in found)
    return [crop(t, (side, side)) for t in whole]


def pad(tensor: Tensor, size: tuple[int, int], value: float = 0) -> Tensor:
    """`tensor` grown to `size` in its last two dimensions, below and on the right."""
    below, right = size[0] - tensor.shape[-2], size[1] - tensor.shape[-1]
    if below == 0 and right == 0:
        return tensor
    return F.pad(tensor, (0, right, 0, below), value=value)


def crop(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left `size` of the last two dimensions; a view."""
    return tensor[..., : size[0], : size[1]]


def outside_class(config: C2FConfig) -> int:
    """A label that no window counts."""
    return next((c for c in range(256) if c not in config.small_classes), 255)


def fed(pixels: Tensor, network: nn.Module, config: C2FConfig) -> Tensor:
    """`pixels` in the dtype and memory format that the network takes."""
    first = next(network.parameters(), pixels)
    if first.device != pixels.device:
        raise ValueError(
            f"C2FNet: image must be on the networks' device, got {pixels.device} and {first.device}"
        )
    pixels = pixels.to(dtype_of(network))
    if config.channels_last:
        return pixels.contiguous(memory_format=torch.channels_last)
    return pixels


def dtype_of(network: nn.Module) -> torch.dtype:
    """Of its input: of its first floating-point parameter, unless what casts its weights tells."""
    given: torch.dtype | None = getattr(network, "_c2f_input_dtype", None)
    if given is not None:
        return given
    found = (p.dtype for p in network.parameters() if p.is_floating_point())
    return next(found, torch.float32)


def multiple_of(network: nn.Module, config: C2FConfig) -> int:
    """Pixels that the sides of the network's input must be a multiple of."""
    given = getattr(network, "stride_multiple", config.stride_multiple)
    return _checks.integer("C2FNet", "a network's stride_multiple", given, 1, _checks.INT32_MAX)


def round_up(size: int, multiple: int) -> int:
    """The next multiple from `size` on."""
    return -(-size // multiple) * multiple
