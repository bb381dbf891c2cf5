"""C2FConfig: presets, what it refuses, and the way through JSON."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from c2fcore import C2FConfig

BASE: dict[str, Any] = {"num_classes": 16, "small_classes": (1, 8, 9, 10, 11, 14, 15)}


def test_default_is_the_fast_preset() -> None:
    config = C2FConfig(**BASE)
    assert config == C2FConfig.preset("fast", **BASE)
    assert (config.strategy, config.rule, config.edge) == ("cover", "normalized", "flush")
    assert (config.window, config.stride, config.n, config.zoom) == (64, 32, 32, 2.0)


def test_paper_preset() -> None:
    config = C2FConfig.preset("paper", **BASE)
    assert (config.window, config.stride, config.n, config.zoom) == (128, 32, 32, 1.0)
    assert (config.strategy, config.rule) == ("top", "paper")


def test_official_preset() -> None:
    config = C2FConfig.preset("official", **BASE, window=64)
    assert (config.window, config.stride, config.n, config.zoom) == (64, 64, None, 1.0)
    assert (config.strategy, config.rule, config.edge) == ("all", "official", "drop")


def test_preset_with_overrides() -> None:
    config = C2FConfig.preset("paper", **BASE, n=8, rule="normalized")
    assert (config.n, config.rule, config.strategy) == (8, "normalized", "top")


def test_values_are_stored_in_one_form() -> None:
    config = C2FConfig(
        num_classes=np.int64(3),  # type: ignore[arg-type]
        small_classes=[2, np.uint8(1)],  # type: ignore[arg-type, list-item]
        mean=[1, 2, 3],  # type: ignore[arg-type]
        std=2,
        class_names=["a", "b", "c"],  # type: ignore[arg-type]
        palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]],  # type: ignore[arg-type]
    )
    assert config.small_classes == (2, 1)
    assert config.mean == (1.0, 2.0, 3.0)
    assert config.std == 2.0
    assert config.palette == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    hash(config)


@pytest.mark.parametrize("preset", ["fast", "paper", "official"])
def test_through_json(preset: str) -> None:
    config = C2FConfig.preset(
        preset,
        num_classes=2,
        small_classes=(1,),
        mean=(0.4, 0.5, 0.6),
        std=0.25,
        class_names=("ground", "ship"),
        palette=((0, 0, 0), (255, 0, 9)),
    )
    assert C2FConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_replace_checks_again() -> None:
    config = C2FConfig(**BASE)
    assert config.replace(n=4).n == 4
    assert config.n == 32
    with pytest.raises(ValueError, match="C2FConfig: window must be at least 1, got 0"):
        config.replace(window=0)


def test_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        C2FConfig(**BASE).window = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes must be in 1..256, got 0"),
        ({"num_classes": 257}, "num_classes must be in 1..256, got 257"),
        ({"small_classes": ()}, "small_classes must not be empty"),
        ({"small_classes": (1, 1)}, "small_classes must not repeat"),
        ({"small_classes": (16,)}, "small_classes must be in 0..15, got 16"),
        ({"small_classes": (-1,)}, "small_classes must be in 0..255, got -1"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"window": 2**31}, "window must be in 1..2147483647, got 2147483648"),
        ({"ignore_index": 2**31}, "ignore_index must be in .*, got 2147483648"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"min_pixels": 0}, "min_pixels must be at least 1, got 0"),
        ({"max_batch": 0}, "max_batch must be at least 1, got 0"),
        ({"stride_multiple": 0}, "stride_multiple must be at least 1, got 0"),
        ({"zoom": 0}, "zoom must be above 0"),
        ({"zoom": float("nan")}, "zoom must be finite, got nan"),
        (
            {"window": 64, "zoom": 1e9},
            r"window \* zoom must be at most 2147483647, got 64 \* 10+",
        ),
        ({"zoom": 0.001}, "window \\* zoom round to at least 1, got 0.001 with window 64"),
        ({"mode": "area"}, "mode must be one of 'nearest', .*, got 'area'"),
        ({"strategy": "best"}, "strategy must be one of 'cover', 'top', 'all', got 'best'"),
        ({"edge": "pad"}, "edge must be one of 'flush', 'drop', got 'pad'"),
        ({"rule": "mean"}, "rule must be one of .*, got 'mean'"),
        ({"backend": "gpu"}, "backend must be one of .*, got 'gpu'"),
        ({"scale": float("inf")}, "scale must be finite, got inf"),
        ({"scale": 10**400}, "scale must be finite, got inf"),
        ({"mean": 1e39}, "mean must be finite, got 1e\\+39"),
        ({"mean": (0.0, float("nan"))}, "mean must be finite, got nan"),
        ({"mean": ()}, "mean must have one value per channel"),
        ({"std": 0}, "std must not be 0, got 0.0"),
        ({"std": (1, 0)}, "std must not be 0, got \\(1.0, 0.0\\)"),
        ({"std": 1e-46}, "std must not be 0, got 1e-46"),
        ({"ignore_index": 8}, "ignore_index must not be a small class, got 8"),
        (
            {"num_classes": 256, "ignore_index": 0},
            "ignore_index must be 255 with 256 classes, got 0",
        ),
        ({"class_names": ("a",)}, "class_names must have num_classes=16 names, got 1"),
        ({"palette": ((0, 0, 0),)}, "palette must have num_classes=16 colours"),
        ({"palette": ((0, 0, 256),) * 16}, "palette must be in 0..255, got 256"),
    ],
)
def test_refuses_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^C2FConfig: .*{message}"):
        C2FConfig(**{**BASE, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 2.5}, "num_classes must be an integer, got 2.5"),
        ({"window": True}, "window must be an integer, got True"),
        ({"n": "32"}, "n must be an integer, got '32'"),
        ({"small_classes": 3}, "small_classes must be class ids, got 3"),
        ({"small_classes": "13"}, "small_classes must be class ids, got '13'"),
        ({"zoom": "2"}, "zoom must be a number, got '2'"),
        ({"mean": "imagenet"}, "mean must be a number, got 'imagenet'"),
        ({"mean": {1.0, 2.0}}, "mean must be a sequence of numbers"),
        ({"zoom": torch.ones(2)}, "zoom must be a number, got tensor"),
        ({"class_names": "ship"}, "class_names must be strings"),
        ({"class_names": 3}, "class_names must be strings, one per class, got 3"),
        ({"class_names": {"ship"}}, "class_names must be strings, one per class"),
        ({"palette": 3}, "palette must be \\(r, g, b\\), one per class, got 3"),
        ({"palette": (1, 2)}, "palette must be \\(r, g, b\\), one per class, got \\(1, 2\\)"),
        ({"channels_last": 1}, "channels_last must be a bool, got 1"),
    ],
)
def test_refuses_types(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^C2FConfig: {message}"):
        C2FConfig(**{**BASE, **change})


def test_from_dict_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"C2FConfig: keys must be fields .*got 'windw', 'k'"):
        C2FConfig.from_dict({**BASE, "windw": 3, "k": 2})
    with pytest.raises(ValueError, match="C2FConfig: small_classes must be given"):
        C2FConfig.from_dict({"num_classes": 3})
    with pytest.raises(TypeError, match="C2FConfig: a mapping of fields is needed, got list"):
        C2FConfig.from_dict([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"C2FConfig: preset must be one of .*, got 'slow'"):
        C2FConfig.preset("slow", **BASE)
    with pytest.raises(ValueError, match="got 'wndow'"):
        C2FConfig.preset("paper", **BASE, wndow=3)


@pytest.mark.parametrize("ignore", [-100, -1, 0, 255, 300])
def test_any_ignore_index_that_is_not_small(ignore: int) -> None:
    assert C2FConfig(num_classes=3, small_classes=(1,), ignore_index=ignore).ignore_index == ignore
