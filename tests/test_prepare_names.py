"""c2f prepare on a data set taken for another one: ids of one are ids of the other, too."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2fcore.cli import main
from c2fcore.data.catalogue import DATASETS

NAMES = ("P0003_0_896_0_896", "2_10_0_0_512_512", "area1_0_0_512_512", "2522", "mine_7")


def test_names_of_another_data_set_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.ones((24, 30), dtype=np.uint8)
    for meant, (name, of) in itertools.product(DATASETS, zip(NAMES, [*DATASETS, ""], strict=True)):
        root = tmp_path / meant / name
        for folder, mode in (("img_dir", "RGB"), ("ann_dir", "L")):
            (root / folder / "train").mkdir(parents=True)
            Image.fromarray(pixels).convert(mode).save(root / folder / "train" / f"{name}.png")
        assert main(["prepare", meant, str(root), "-o", f"{root}-out", "--workers", "0"]) == 0
        note = f"note: images such as {name} are named as those of {of}, not of {meant}: "
        assert (note in capsys.readouterr().err) == (of not in {meant, ""})
