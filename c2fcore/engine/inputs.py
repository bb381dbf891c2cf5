"""What people pass as images, and answers of the same kind."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from .. import _arrays, _stages
from ..images import UNREADABLE, picture_of, read

# Pillow decodes an opened file when its pixels are first asked for; two threads that do so at once
# get wrong pixels. The same image always gets the same lock.
_decoding = [threading.Lock() for _ in range(16)]


class Loaded(NamedTuple):
    """An image ready for an engine.

    Attributes:
        name: what messages call it.
        pixels: [H, W, C] as a tensor, any strides.
        answer: makes the answer to the user of labels, a uint8 tensor [H, W] on the CPU.
        known: bool [H, W], False where a file has no data; None if it has some everywhere.
    """

    name: str
    pixels: Tensor
    answer: Callable[[Tensor], Any]
    known: npt.NDArray[np.bool_] | None = None


def name_of(item: Any, index: int) -> str:
    """What to call item number `index`: its path, the name given with it, or its number."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return item[0]
    if isinstance(item, (str, Path)):
        return str(item)
    return str(getattr(item, "filename", "") or f"image {index}")


def load(item: Any, index: int = 0) -> Loaded:
    """Reads or views one image.

    Args:
        item: a path; a Pillow image; an array [H, W, C] or [H, W] (NumPy, CuPy); a tensor
            [C, H, W]; or (name, one of these).
        index: its number, for its name.

    Raises:
        TypeError: something else, or a dtype that is not an image's.
        ValueError: another shape, or a file that cannot be read.
        FileNotFoundError: there is no such file.
    """
    name = name_of(item, index)
    known = None
    if isinstance(item, tuple):
        if len(item) != 2 or not isinstance(item[0], str):
            raise TypeError(f"Engine: a tuple must be (name, image), got {len(item)} entries")
        item = item[1]
    if isinstance(item, (str, Path)):
        item, known = read(item)
    elif isinstance(item, Image.Image):
        with _lock_of(item):
            item, known = picture_of(item)
    if isinstance(item, np.ndarray) or _arrays.is_cupy(item):
        if item.ndim not in (2, 3):
            raise ValueError(f"Engine: an array must be [H, W, C] or [H, W], got {item.shape}")
        pixels = _arrays.as_tensor("Engine", "image", item if item.ndim == 3 else item[..., None])
        kind = functools.partial(_arrays.handed_back, given=item, device=pixels.device)
        return Loaded(name, _checked(pixels), kind, known)
    if isinstance(item, Tensor):
        if item.ndim != 3:
            raise ValueError(f"Engine: a tensor must be [C, H, W], got {tuple(item.shape)}")
        device = item.device
        pixels = _arrays.as_tensor("Engine", "image", item).permute(1, 2, 0)
        return Loaded(name, _checked(pixels), lambda labels: labels.to(device))
    raise TypeError(
        "Engine: an image must be a path, a Pillow image, an array or a tensor, "
        f"got {type(item).__name__}"
    )


def check_many(images: Any) -> None:
    """What `Engine.run` is given holds images.

    Raises:
        TypeError: it is one image, whose letters or rows would be taken for images; or no iterable.
    """
    one = isinstance(images, (str, Path, Image.Image))
    if isinstance(images, (np.ndarray, Tensor)) or _arrays.is_cupy(images):
        one = images.ndim < 4
    if one or not (hasattr(images, "__iter__") or hasattr(images, "__getitem__")):
        raise TypeError(
            "Engine: images must be an iterable of images, and one image goes to engine(image); "
            f"got {type(images).__name__}"
        )


def at_once(item: Any) -> bool:
    """Whether the image (or (name, image)) is to be read by the thread that it comes from.

    CuPy's are: CuPy knows one current stream per thread, which is waited for when the image is
    viewed. And Pillow's of several frames, which are one image that moves on to the next.
    """
    image = item[1] if isinstance(item, tuple) and len(item) == 2 else item
    if not isinstance(image, Image.Image):
        return _arrays.is_cupy(image)
    with suppress(*UNREADABLE), _lock_of(image):
        return bool(getattr(image, "is_animated", False))
    return True  # loading it raises the reason


def _lock_of(image: Image.Image) -> threading.Lock:
    return _decoding[(id(image) >> 4) % len(_decoding)]


def _checked(pixels: Tensor) -> Tensor:
    """[H, W, C] of a shape and dtype that the network can take."""
    _stages.check_image(pixels.permute(2, 0, 1)[None])
    _stages.check_memory("Engine", pixels)
    return pixels
