"""C2FConfig: everything the two-stage network needs to know besides its two networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from . import _checks
from ._backend import CHOICES as BACKENDS
from ._classes import MAX_CLASSES
from .ops.aggregate import RULES as RULES
from .ops.count_windows import EDGES as EDGES
from .ops.extract_patches import MODES
from .ops.select_windows import STRATEGIES as STRATEGIES

_WHO: Final = "C2FConfig"

# What differs from the fields' defaults, which are preset "fast".
_PRESETS: Final[dict[str, dict[str, Any]]] = {
    "fast": {},
    "paper": {"window": 128, "zoom": 1.0, "strategy": "top", "rule": "paper"},
    "official": {
        "window": 128,
        "zoom": 1.0,
        "strategy": "all",
        "rule": "official",
        "edge": "drop",
        "n": None,
    },
}


@dataclass(frozen=True)
class C2FConfig:
    """Settings of a `C2FNet`; the defaults are preset "fast". Immutable: `replace` gives a copy.

    Attributes:
        num_classes: N, classes of the coarse network, 1..256.
        small_classes: ids of the small classes C, distinct, in 0..N-1.
        window: side k of a window in full-size pixels.
        stride: distance of neighbouring candidate windows in pixels; strategy "all" takes k
            instead.
        n: windows per image at most; None for as many as there are.
        zoom: patches are fed to the fine network at round(k * zoom) pixels a side.
        mode: resampling of patches: "nearest", "bilinear" or "bicubic".
        strategy: "cover", "top" or "all"; see `ops.select_windows`.
        min_pixels: fewest small-object pixels that make a window worth a look.
        edge: "flush" or "drop": whether a last window touches the border; see `ops.count_windows`.
        rule: "paper", "normalized" or "official"; see `ops.aggregate`.
        fine_slope: factor on the fine network's logits before they are merged, above 0.
        fine_shift: added to its foreground logits after that; `C2FNet.calibrate` finds both.
        max_batch: patches per forward of the fine network at inference, to bound its memory.
        scale: factor on raw pixel values; None is 1/255 for uint8 and 1 otherwise.
        mean: subtracted after scaling; a number, one per channel, or None.
        std: divided by after that; a number, one per channel, or None. Both stages see the same
            values.
        ignore_index: label that no loss counts.
        stride_multiple: images and patches are padded to multiples of this for a network that has
            no `stride_multiple` attribute of its own.
        channels_last: feed both networks channels_last memory (for networks moved to that format).
        class_names: one name per class, for reports and pictures.
        palette: one (r, g, b) in 0..255 per class, for pictures.
        backend: "auto", "reference", "cpu", "triton" or "cuda", for all ops of the network.
    """

    num_classes: int
    small_classes: tuple[int, ...]
    window: int = 64
    stride: int = 32
    n: int | None = 32
    zoom: float = 2.0
    mode: str = "bilinear"
    strategy: str = "cover"
    min_pixels: int = 1
    edge: str = "flush"
    rule: str = "normalized"
    fine_slope: float = 1.0
    fine_shift: float = 0.0
    max_batch: int = 32
    scale: float | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    ignore_index: int = 255
    stride_multiple: int = 32
    channels_last: bool = False
    class_names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    backend: str = "auto"

    def __post_init__(self) -> None:
        """Checks every field and stores sequences as tuples."""
        set_ = object.__setattr__
        set_(self, "num_classes", _integer("num_classes", self.num_classes, 1, MAX_CLASSES))
        ids = _checks.class_ids(_WHO, self.small_classes, self.num_classes)
        set_(self, "small_classes", ids)
        for name in ("window", "stride", "min_pixels", "max_batch", "stride_multiple"):
            set_(self, name, _integer(name, getattr(self, name), 1, _checks.INT32_MAX))
        if self.n is not None:
            set_(self, "n", _integer("n", self.n, 1, _checks.INT32_MAX))
        set_(self, "zoom", _checks.number(_WHO, "zoom", self.zoom))
        if self.zoom <= 0 or round(self.window * self.zoom) < 1:
            raise ValueError(
                f"{_WHO}: zoom must be above 0 and window * zoom round to at least 1, "
                f"got {self.zoom} with window {self.window}"
            )
        if round(self.window * self.zoom) > _checks.INT32_MAX:
            raise ValueError(
                f"{_WHO}: window * zoom must be at most {_checks.INT32_MAX}, got {self.window} * "
                f"{self.zoom}"
            )
        for name, options in (
            ("mode", MODES),
            ("strategy", STRATEGIES),
            ("edge", EDGES),
            ("rule", RULES),
            ("backend", BACKENDS),
        ):
            _checks.choice(_WHO, name, getattr(self, name), options)
        for name in ("fine_slope", "fine_shift"):
            set_(self, name, _checks.number(_WHO, name, getattr(self, name)))
        if not self.fine_slope > 0:
            raise ValueError(f"{_WHO}: fine_slope must be above 0, got {self.fine_slope}")
        if self.scale is not None:
            set_(self, "scale", _checks.number(_WHO, "scale", self.scale))
        set_(self, "mean", _per_channel("mean", self.mean))
        set_(self, "std", _per_channel("std", self.std))
        if self.std is not None:
            stds = self.std if isinstance(self.std, tuple) else (self.std,)
            _checks.nonzero(_WHO, "std", stds, self.std)
        self._check_ignore_index()
        if not isinstance(self.channels_last, bool):
            raise TypeError(f"{_WHO}: channels_last must be a bool, got {self.channels_last!r}")
        set_(self, "class_names", _names(self.class_names, self.num_classes))
        set_(self, "palette", _palette(self.palette, self.num_classes))

    def _check_ignore_index(self) -> None:
        ignore = _integer("ignore_index", self.ignore_index, -(2**31), _checks.INT32_MAX)
        object.__setattr__(self, "ignore_index", ignore)
        if ignore in self.small_classes:
            raise ValueError(f"{_WHO}: ignore_index must not be a small class, got {ignore}")
        # Ignored pixels travel through the ops as label 255, which then must not be a class.
        if ignore != 255 and self.num_classes > 255:
            raise ValueError(f"{_WHO}: ignore_index must be 255 with 256 classes, got {ignore}")

    @classmethod
    def preset(
        cls, name: str, *, num_classes: int, small_classes: Iterable[int], **overrides: Any
    ) -> C2FConfig:
        """A published setting by name; `overrides` are fields that differ from it.

        - "fast": 32 windows of 64 by greedy coverage, seen at twice their size, which is as much
          for the fine network as 32 of 128 are at zoom 1; the paper's rule with probabilities as
          scores.
        - "paper": 32 windows of 128 at stride 32, by count; the merge rule of Eq. 1.
        - "official": the authors' released code: every disjoint window with a small-object pixel,
          their merge rule; `stride` follows `window`.

        Raises:
            ValueError: no such preset, an unknown field, or a value that breaks a rule.
            TypeError: a value of the wrong type.
        """
        _checks.choice(_WHO, "preset", name, tuple(_PRESETS))
        values = {
            "num_classes": num_classes,
            "small_classes": small_classes,
            **_PRESETS[name],
            **overrides,
        }
        if name == "official":
            values.setdefault("stride", values.get("window", cls.window))
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> C2FConfig:
        """The configuration that `to_dict` wrote; fields left out take their defaults.

        Raises:
            ValueError: a key that is no field, a missing one without a default, or a bad value.
            TypeError: `values` is no mapping, or a value has the wrong type.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"{_WHO}: a mapping of fields is needed, got {type(values).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(
                f"{_WHO}: keys must be fields of C2FConfig, got {', '.join(map(repr, unknown))}"
            )
        absent = [key for key in ("num_classes", "small_classes") if key not in values]
        if absent:
            raise ValueError(f"{_WHO}: {' and '.join(absent)} must be given, got {sorted(values)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as values that JSON can hold."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def replace(self, **changes: Any) -> C2FConfig:
        """A copy with `changes`, checked like a new one.

        Raises:
            ValueError: an unknown field or a value that breaks a rule.
            TypeError: a value of the wrong type.
        """
        return self.from_dict({**vars(self), **changes})


def names_of(config: C2FConfig) -> tuple[str, ...]:
    """One per class; its id where the network knows no names."""
    return config.class_names or tuple(map(str, range(config.num_classes)))


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _integer(name: str, value: object, low: int, high: int) -> int:
    return _checks.integer(_WHO, name, value, low, high)


def _per_channel(name: str, value: object) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    found = _checks.numbers_of(_WHO, name, value)
    if isinstance(found, float):
        return found
    if not found:
        raise ValueError(f"{_WHO}: {name} must have one value per channel, got ()")
    return tuple(found)


def _names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not _in_order(names) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{_WHO}: class_names must be strings, one per class, got {names!r}")
    if len(names) != num_classes:
        raise ValueError(
            f"{_WHO}: class_names must have num_classes={num_classes} names, got {len(names)}"
        )
    return tuple(names)


def _in_order(value: object) -> bool:
    """Whether these are values one after the other; a text or an array of no dimension is one."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, (str, bytes, Set, Mapping, Iterator))
        and getattr(value, "ndim", 1) > 0
    )


def _palette(
    colours: Sequence[Sequence[int]] | None, num_classes: int
) -> tuple[tuple[int, int, int], ...] | None:
    if colours is None:
        return None
    if not _in_order(colours) or not all(map(_in_order, colours)):
        raise TypeError(f"{_WHO}: palette must be (r, g, b), one per class, got {colours!r}")
    rows = tuple(tuple(_integer("palette", v, 0, 255) for v in colour) for colour in colours)
    if len(rows) != num_classes or any(len(row) != 3 for row in rows):
        raise ValueError(
            f"{_WHO}: palette must have num_classes={num_classes} colours (r, g, b), got {rows}"
        )
    return tuple((r, g, b) for r, g, b in rows)
