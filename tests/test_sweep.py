"""What a sweep is kept and shown by: names of files, changes of folders, charts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from c2fcore.evaluation import chart
from c2fcore.evaluation.sweep import fingerprint, slug


def test_a_change_below_a_folder_is_noticed(tmp_path: Path) -> None:
    """Beside a file of the folder's own, and behind a link."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "data"
    (elsewhere / "images").mkdir(parents=True)
    folder.mkdir()
    (folder / "README").write_text("mine")
    (folder / "images").symlink_to(elsewhere / "images")
    seen = [fingerprint(folder)]
    assert fingerprint(folder) == seen[0]
    image = elsewhere / "images" / "a.png"
    image.write_text("one")
    seen.append(fingerprint(folder))
    image.rename(image.with_name("b.png"))
    seen.append(fingerprint(folder))
    os.utime(image.with_name("b.png"), (1, 1))
    seen.append(fingerprint(folder))
    assert len({json.dumps(found) for found in seen}) == 4
    assert fingerprint("owner/name") == "owner/name"


def test_names_of_files_and_charts() -> None:
    assert slug("window 64, stride 16") == "window-64-stride-16"
    assert slug("DeepLabV3+") == "DeepLabV3-plus"
    assert slug("../../etc") == "..-..-etc"
    with pytest.raises(ValueError, match="at least one point"):
        chart.lines("t", "x", "y", {"a": []})
    pytest.importorskip("matplotlib")
    series = {"one": [(4, 50.0), (32, 50.0), (8, 60.0)], "two": [(8, 40.0)]}
    text = chart.lines("a < b", "x", "y", series)
    told = {
        "".join(found.itertext()) for found in ElementTree.fromstring(text).findall(".//{*}text")
    }
    assert {"a < b", "x", "y", "4", "8", "32", "one", "two"} <= told
    assert text == chart.lines("a < b", "x", "y", series)


def test_a_chart_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'c2fcore\[plot\]'"):
        chart.lines("t", "x", "y", {"a": [(1, 1.0)]})
