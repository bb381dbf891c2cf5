"""The ops on real label maps: what makes "cover" the default, and that real sizes work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from PIL import Image
from torch import Tensor

from c2fcore import metrics, ops
from c2fcore.data.catalogue import DATASETS
from c2fcore.data.masks import MaskDecoder

OP = "select_windows"
SMALL = DATASETS["isaid"].small_classes
ISAID = {"P0003": "isaid/val/images", "P0005": "isaid/train/images"}
# Share of small-object pixels under 32 windows of 128 at stride 32, in percent.
COVERED = {("P0003", "top"): 59, ("P0005", "top"): 40, ("P0003", "cover"): 100,
           ("P0005", "cover"): 94}  # fmt: skip


def _open(path: Path) -> np.ndarray:
    if not path.is_file():
        pytest.skip(f"no {path}; set C2F_SHARED")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB") if image.mode in ("RGBA", "P") else image)


def _isaid(shared: Path, name: str) -> Tensor:
    mask = _open(shared / "data" / ISAID[name] / f"{name}_instance_color_RGB.png")
    ids, unknown = MaskDecoder(DATASETS["isaid"], "rgb")(mask)
    assert not unknown
    return torch.from_numpy(ids)[None]


@pytest.mark.parametrize(("name", "strategy"), list(COVERED))
def test_coverage(shared: Path, backend: str, device: str, name: str, strategy: str) -> None:
    labels = _isaid(shared, name)
    got = ops.select_windows(
        labels.to(device), SMALL, window=128, stride=32, n=32, strategy=strategy, backend=backend
    )
    small = torch.isin(labels[0].int(), torch.tensor(SMALL, dtype=torch.int32))
    covered = metrics.covered_mask(got, *small.shape)[0]
    share = int((covered & small).sum()) / int(small.sum())
    assert round(100 * share) == COVERED[name, strategy]
    if strategy == "cover":
        assert int(got.counts.sum()) == int((covered & small).sum())


@pytest.mark.parametrize("name", list(ISAID))
def test_counts(shared: Path, backend: str, device: str, name: str) -> None:
    """Every window of a real mask, against sums of the pixels."""
    labels = _isaid(shared, name)
    got = ops.count_windows(labels.to(device), SMALL, window=128, stride=32, backend=backend)
    small = np.isin(labels[0].numpy(), SMALL)
    ys = oracles.starts(small.shape[0], 128, 32, "flush")
    xs = oracles.starts(small.shape[1], 128, 32, "flush")
    want = [[int(small[y : y + 128, x : x + 128].sum()) for x in xs] for y in ys]
    assert got[0].tolist() == want


@pytest.mark.parametrize("strategy", ["top", "cover", "all"])
def test_real_layouts_match_the_reference(
    shared: Path, backend: str, device: str, strategy: str
) -> None:
    """Cars of Potsdam as logits at a quarter of the size: cells agree inside objects."""
    path = shared / "data/potsdam/ann_dir/train/2_10_0_0_512_512.png"
    labels = torch.from_numpy(_open(path).copy()).long()
    assert labels.shape == (512, 512)
    one_hot = torch.nn.functional.one_hot(labels, 7).permute(2, 0, 1)[None].float()
    logits = torch.nn.functional.avg_pool2d(one_hot, 4) * 8
    logits += 1e-3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"window": 64, "stride": 16, "n": 12, "strategy": strategy}
    call: dict[str, Any] = {"size": (512, 512), **options}
    want = ops.select_windows(logits, (5,), **call, backend="reference")
    got = ops.select_windows(logits.to(device), (5,), **call, backend=backend)
    assert int(want.num[0]) > 3
    for g, w in zip(got[:3], want[:3], strict=True):
        assert torch.equal(g.cpu(), w)
    # Upsampled logits of a real layout give back nearly the labels they were made of.
    coarse = ops.count_windows(logits.to(device), (5,), window=512, stride=1, size=(512, 512),
                               backend=backend)  # fmt: skip
    assert int(coarse) == pytest.approx(int((labels == 5).sum()), rel=0.03)


def test_patches_of_a_real_image(shared: Path, backend: str, device: str) -> None:
    """An HWC view of a decoded file, cut at native resolution, is the file's pixels."""
    rgb = _open(shared / "data" / ISAID["P0003"] / "P0003.png")
    labels = _isaid(shared, "P0003")
    windows = ops.select_windows(labels.to(device), SMALL, window=128, stride=32, n=8,
                                 backend=backend)  # fmt: skip
    image = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(device)
    got = ops.extract_patches(image, windows, scale=1.0, backend=backend).cpu()
    for j, (y, x) in enumerate(windows.origins[0].tolist()):
        want = torch.from_numpy(rgb[y : y + 128, x : x + 128].copy()).permute(2, 0, 1).float()
        assert torch.equal(got[j], want)
