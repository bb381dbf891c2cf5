"""Sample inputs of aggregate: (coarse, fine, windows, small_classes), then options."""

from __future__ import annotations

from typing import Any

import torch

from . import Sample
from .inputs import (
    ALMOST_ALIGNED,
    BOUNDARY_CLASSES,
    LAYOUTS,
    almost_aligned_shape,
    blob_logits,
    grid_logits,
    laid_out,
    noise_logits,
    one_hot_logits,
    random_windows,
    signed_nans,
    windows_of,
)

RULES = ("paper", "normalized", "official")
OUTPUTS = ("labels", "probs")


def _merge(
    name: str,
    *,
    coarse: tuple[int, int, int, int] = (2, 5, 7, 9),
    size: tuple[int, int] | None = (28, 36),
    window: int = 8,
    n: int = 4,
    channels: int = 2,
    fine: tuple[int, int] | None = None,
    classes: Any = (1, 3),
    kind: str = "noise",
    dtype: torch.dtype = torch.float32,
    fine_dtype: torch.dtype | None = None,
    layout: str = "planar",
    boxes: list[list[tuple[int, int]]] | None = None,
    loops: bool = True,
    **options: Any,
) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        batch = coarse[0]
        if kind == "grid":
            x = grid_logits(coarse, seed=sum(coarse))
        elif kind == "blobs":
            x = blob_logits(*coarse, seed=sum(coarse))
        elif kind == "one-hot":
            x = 4 * one_hot_logits() + noise_logits(coarse, seed=sum(coarse), spread=1.0)
        else:
            x = noise_logits(coarse, seed=sum(coarse), spread=1.5)
        height, width = size or coarse[2:]
        hf, wf = fine or (window, window)
        f = noise_logits((batch * n, channels, hf, wf), seed=n + hf, spread=1.5)
        if boxes is not None:
            windows = windows_of(boxes, window, n, device)
        else:
            windows = random_windows(
                batch, height, width, window, n, seed=n + window, device=device
            )
        return (
            laid_out(x.to(dtype).to(device), layout),
            laid_out(f.to(fine_dtype or dtype).to(device), layout),
            windows,
            classes,
        )

    if size is not None:
        options["size"] = size
    return Sample(name, make, options, loops=loops, exact=kind == "grid")


def _special(
    name: str, *, fine: tuple[int, int] = (5, 5), fine_too: bool, **options: Any
) -> Sample:
    """NaN and infinities in the coarse logits, and in the fine ones under overlapping windows."""

    def make(device: str) -> tuple[Any, ...]:
        nan, inf = float("nan"), float("inf")
        x = grid_logits((1, 4, 8, 8), seed=3)
        x[0, 1, 0, 0] = nan
        x[0, :, 1, 1] = nan
        x[0, 2, 2, 2] = inf
        x[0, 1:3, 3, 3] = inf
        x[0, 0, 4, 4] = -inf
        x[0, :, 5, 5] = -inf
        f = noise_logits((3, 1, *fine), seed=4)
        if fine_too:
            f[0, 0, 1, 1], f[0, 0, 2, 2], f[0, 0, -2, -2] = nan, inf, -inf
            f[1, 0] = inf
            f[2, 0] = -inf
        windows = windows_of([[(0, 0), (2, 2), (3, 3)]], 5, 3, device)
        return signed_nans(x).to(device), signed_nans(f).to(device), windows, (1, 2)

    return Sample(name, make, options, loops=True, exact=True)


def _equal_channels(name: str, **fine: Any) -> Sample:
    """Both channels of the fine logits lie at the same address: p_f is 0.5, and added as that."""
    sample = _merge(name, channels=1, rule="official", **fine)

    def make(device: str) -> tuple[Any, ...]:
        coarse, logits, windows, classes = sample.make(device)
        return coarse, logits.expand(-1, 2, -1, -1), windows, classes

    return Sample(name, make, sample.options, loops=True)


def _every_rule_and_output() -> list[Sample]:
    samples = []
    for rule in RULES:
        for output in OUTPUTS:
            o: dict[str, Any] = {"rule": rule, "output": output}
            tag = f"{rule}-{output}"
            samples += [
                _merge(f"{tag}-two-channels", fine=(4, 4), **o),
                _merge(f"{tag}-one-channel", channels=1, fine=(3, 5), **o),
                _merge(f"{tag}-fine-larger", fine=(13, 16), **o),
                _merge(f"{tag}-own-size", coarse=(2, 4, 19, 23), size=None, **o),
                _merge(f"{tag}-overlaps", coarse=(1, 6, 6, 6), size=(24, 24), window=12, n=9, **o),
                _merge(f"{tag}-num-0", boxes=[[], []], n=2, **o),
                _merge(f"{tag}-every-class-small", classes=(0, 1, 2, 3, 4), **o),
                _special(f"{tag}-nan-inf-coarse", fine_too=False, **o),
                _special(f"{tag}-nan-inf-fine", fine_too=True, **o),
                # On the axis that keeps its size a pixel has no neighbour.
                _special(f"{tag}-nan-inf-taller", fine=(3, 5), fine_too=True, size=(16, 8), **o),
                _special(f"{tag}-nan-inf-wider", fine=(5, 3), fine_too=True, size=(8, 16), **o),
                _merge(
                    f"{tag}-blobs",
                    coarse=(2, 16, 12, 40),
                    size=(48, 160),
                    window=32,
                    n=9,
                    fine=(8, 8),
                    classes=(1, 8, 9, 10, 11, 14, 15),
                    kind="blobs",
                    loops=False,
                    **o,
                ),
            ]
    return samples


def _few_windows() -> list[Sample]:
    """Images with more parts than windows may reach: there the cuda backend's blocks differ."""
    wide: dict[str, Any] = {
        **{"coarse": (2, 16, 32, 80), "size": (128, 320), "window": 24, "fine": (6, 6)},
        **{"classes": (1, 8, 9, 10, 11, 14, 15), "kind": "blobs", "loops": False},
    }
    beside = [(0, 0), (16, 64), (16, 64), (104, 296)]  # at borders of parts, and beyond them
    # The first and the fourth begin where parts end that later ones reach; the second and third end
    # where parts begin.
    touching = [(32, 5), (8, 30), (0, 40), (64, 64), (72, 0)]
    return [
        _merge("wide", **wide),
        _merge("wide-official-float16", **wide, rule="official", dtype=torch.float16),
        _merge("wide-channels_last", **wide, layout="channels_last"),
        _merge("wide-num-0-of-one", **wide, boxes=[[], beside]),
        _merge("wide-overlaps", **wide, n=5, boxes=[beside, touching]),
        _merge(
            "wide-odd-sizes",
            coarse=(1, 5, 37, 79),
            size=(147, 315),
            window=37,
            n=4,
            fine=(9, 9),
            boxes=[[(110, 278), (95, 250), (47, 27), (100, 90)]],
            loops=False,
        ),
        # Scores of an image that fills a GPU with wide tiles, the last ones cut off.
        *[
            _merge(
                f"wide-{rule}-probs-{classes}-classes",
                coarse=(1, classes, 86, 190),
                size=(343, 757),
                window=50,
                n=5,
                fine=(13, 13),
                classes=(1,),
                boxes=[[(0, 0), (290, 700), (150, 31), (170, 50), (293, 707)]],
                loops=False,
                rule=rule,
                output="probs",
            )
            for rule, classes in (("normalized", 2), ("paper", 7))
        ],
        _merge("wide-taller", coarse=(1, 4, 32, 320), size=(128, 320), window=24, n=3, loops=False),
        _merge("wide-wider", coarse=(1, 4, 128, 80), size=(128, 320), window=24, n=3, loops=False),
    ]


SAMPLES: list[Sample] = [
    *_every_rule_and_output(),
    *_few_windows(),
    *[
        _merge(f"{layout}-{output}", layout=layout, fine=(4, 4), output=output)
        for layout in (*LAYOUTS[1:], "every-16th")
        for output in OUTPUTS
    ],
    *[
        _merge(f"{str(d).removeprefix('torch.')}-{output}", dtype=d, fine=(4, 4), output=output)
        for d in (torch.float16, torch.bfloat16)
        for output in OUTPUTS
    ],
    *[
        _merge(
            f"{layout}-{output}",
            coarse=almost_aligned_shape(layout),
            size=None,
            dtype=dtype,
            layout=layout,
            output=output,
            loops=False,
        )
        for layout in ALMOST_ALIGNED
        for output, dtype in (("labels", torch.float16), ("probs", torch.float32))
    ],
    *[
        _merge(
            f"every-class-{rule}-{output}",
            coarse=(1, 256, 16, 16),
            size=None,
            window=16,
            n=1,
            classes=BOUNDARY_CLASSES,
            kind="one-hot",
            loops=False,
            rule=rule,
            output=output,
        )
        for rule in RULES[::2]
        for output in OUTPUTS
    ],
    _merge("mixed-dtypes", fine_dtype=torch.bfloat16),
    _merge("grid-ties", kind="grid"),
    _merge("odd-ratio", coarse=(1, 5, 7, 11), size=(23, 37), fine=(3, 3)),
    _merge("one-class", coarse=(1, 1, 4, 4), size=(16, 16), classes=(0,)),
    _merge(
        "two-classes-normalized",
        coarse=(1, 2, 4, 4),
        size=(16, 16),
        classes=(1,),
        rule="normalized",
        output="probs",
    ),
    _merge("many-classes", coarse=(1, 150, 4, 5), size=(16, 20), classes=(3, 77, 149), n=2),
    _merge(
        "many-classes-probs",
        coarse=(1, 150, 4, 5),
        size=(16, 20),
        classes=(3, 77, 149),
        n=2,
        output="probs",
    ),
    _merge("256-classes", coarse=(1, 256, 3, 3), size=(12, 12), classes=(0, 255), n=2, loops=False),
    _merge("window-1", coarse=(1, 4, 5, 5), size=(5, 5), window=1, n=6),
    _merge("window-is-image", coarse=(1, 4, 4, 4), size=(16, 16), window=16, n=1),
    _merge("many-windows", coarse=(1, 4, 5, 5), size=(20, 20), window=3, n=300, fine=(3, 3)),
    _merge(
        "many-windows-probs",
        coarse=(1, 6, 5, 5),
        size=(20, 20),
        window=3,
        n=300,
        fine=(3, 3),
        output="probs",
        loops=False,
    ),
    _merge("fine-1x1", fine=(1, 1)),
    _equal_channels("equal-channels", fine=(4, 4)),
    _equal_channels("equal-channels-own-size"),
    _merge("corners", boxes=[[(0, 0), (20, 28), (0, 28)], [(20, 0)]], n=3, fine=(2, 2)),
    _merge("same-window-three-times", boxes=[[(5, 6)] * 3, [(1, 1), (1, 2), (2, 1)]], n=3),
    _merge("empty-batch", coarse=(0, 4, 4, 4), size=(16, 16)),
    _merge("empty-batch-probs", coarse=(0, 4, 4, 4), size=(16, 16), output="probs"),
    _merge(
        "full-channels_last-f16",
        coarse=(2, 16, 48, 64),
        size=None,
        window=32,
        n=5,
        fine=(8, 8),
        dtype=torch.float16,
        layout="channels_last",
        kind="blobs",
        loops=False,
    ),
]
