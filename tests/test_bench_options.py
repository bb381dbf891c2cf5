"""Options of `c2f bench` that are refused before anything is measured: nothing is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from c2fcore.cli import main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sizes", "0"), "--sizes must be sides from 1 or HEIGHTxWIDTH, got '0'"),
        (("--sizes", "64,1x2x3"), "--sizes must be sides from 1 or HEIGHTxWIDTH, got '1x2x3'"),
        (("--sizes", "x"), "--sizes must be sides from 1 or HEIGHTxWIDTH, got 'x'"),
        (("--zooms", "a"), "--zooms must be positive numbers by commas, got 'a'"),
        (("--n", ""), "--n must be whole numbers from 1 by commas, got ''"),
        (("--rounds", "0"), "--rounds must be at least 1, got 0"),
        (("--threads", "0"), "--threads must be at least 1, got 0"),
        (("--threads", "1025"), "--threads must be at most 1024, got 1025"),
        (("--budget", "nan"), "--budget must be above 0 seconds, got nan"),
        (("--device", "tpu"), "--device must be cpu or cuda, got tpu"),
        (("-o", __file__), "--out must be a folder, got the file "),
        (("--masks", "nothing.png"), "--masks must be files, got nothing.png"),
        (("--image", "nothing.png"), "nothing.png"),
        (("--checkpoint", "./nothing"), "--checkpoint must be a folder or a hub id"),
        (("--coarse", "nothing"), "models.build: name must be one of fcn_hrnet_w18, "),
        (("--fine", "nothing:net"), "'nothing:net' must be an importable function, got No module"),
        (("--op", "nothing"), "--op must be all, count_windows"),
        (("--ways", "reference,cqu"), "--ways must be among coarse, reference, engine"),
        (
            ("--op", "count_windows", "--sizes", "64", "--ways", "roi-align"),
            "one of --ways must do this job here, got none that does",
        ),
        (("--scale", "area", "--largest", "9"), "--largest must be at least 512, got 9"),
        (("--scale", ""), "--scale must be axes among area, n, classes, batch, threads, got ''"),
        (("--op", "all", "--checkpoint", "net"), "only, got --checkpoint"),
        (("--op", "all", "--image", "a.png"), "--op must come with --device, --threads, "),
        (("--scale", "--image", "a.png"), "--no-memory, --out, --compare, --repeats, --masks, "),
        (("--scale", "n", "--op", "all"), "--largest only, got --op"),
        (("--scale", "n", "--largest", "600"), "--largest must come with --scale area, got "),
        (("--op", "all", "--warmup", "3"), "only, got --warmup"),
        (("--largest", "600"), "--largest must come with --scale, got it without"),
        (("--repeats", "3"), "--repeats must come with --compare, got it without"),
        (("--checkpoint", "net", "--coarse", "far_seg"), "--checkpoint must come without --coarse"),
        (("--image", "a.png", "--sizes", "64"), "--image must come without --sizes, got both"),
        (("--compare", "HEAD", "HEAD~1"), "--compare must come without --out, got both"),
        (("--charts", "rows"), "--charts must come with no other option only, got --out"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "-o", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
