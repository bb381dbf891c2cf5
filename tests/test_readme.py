"""The README's Python runs as it stands, snippet after snippet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from scenes_on_disk import noise, write

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_snippets_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, in a folder with the files they name; with networks that are quicker."""
    pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")
    monkeypatch.chdir(tmp_path)
    pixels = noise(3, 70, 90)
    for name in ("photo.png", "folder/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(name)
    for name in ("scene.tif", "ortho.tif"):
        write(tmp_path / name, pixels)
    made = {}
    for snippet in SNIPPETS:
        made = {}
        exec(snippet.replace("fcn_hrnet_w18", "tiny_fcn"), made)
    assert len(SNIPPETS) == 3
    assert tuple(made["merged"].shape) == (2, 512, 512)
    assert (tmp_path / "labels.tif").exists()
