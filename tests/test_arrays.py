"""NumPy in, NumPy out, without copies; CuPy the same where it is installed."""

from __future__ import annotations

import functools
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_bits, call
from cupy_double import Array, CuPy

from c2fcore import Windows, _arrays, _backend, _native, ops
from c2fcore.testing import samples
from c2fcore.testing.samples import Sample

ONE = [
    ("count_windows", "primes-flush"),
    ("count_windows", "logits-channels_last"),
    ("select_windows", "cover-clusters"),
    ("extract_patches", "normalised"),
    ("extract_patches", "uint16-zoom-2"),
    ("extract_targets", "int64"),
    ("aggregate", "paper-labels-two-channels"),
    ("aggregate", "normalized-probs-one-channel"),
]


def _as(kind: Any, value: Any) -> Any:
    if isinstance(value, Windows):
        return Windows(*(kind(t) for t in value[:3]), value.window)
    return kind(value) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(("op", "name"), ONE)
def test_numpy(op: str, name: str) -> None:
    sample: Sample = samples.get(op, name)
    want = call(op, sample, "auto")
    args = [_as(lambda t: t.numpy(), a) for a in sample.args()]
    got = getattr(ops, op)(*args, **sample.options)
    pairs = zip(got[:3], want[:3], strict=True) if isinstance(want, Windows) else [(got, want)]
    for g, w in pairs:
        assert isinstance(g, np.ndarray)
        assert g.dtype == w.numpy().dtype
        np.testing.assert_array_equal(g, w.numpy())


class OfAnOlderTorch:
    """A tensor without DLPack's C interface, which came with torch 2.11."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


@pytest.mark.skipif(_native.cpu().module is None, reason=_native.cpu().reason)
@pytest.mark.parametrize("op", samples.OPS)
def test_tensors_are_read_by_their_attributes_where_need_be(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One binary serves every torch: what old tensors are is asked in Python."""
    some = samples.of(op)[::5]
    want = [call(op, sample, "cpu") for sample in some]
    assert not hasattr(OfAnOlderTorch, "__dlpack_c_exchange_api__")
    seen: list[str] = []

    def choose(op: str, *_: Any, **__: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(op)
            return _native.function(op)(*(_as(OfAnOlderTorch, arg) for arg in args))

        return run

    monkeypatch.setattr(_backend, "choose", choose)
    for sample, wanted in zip(some, want, strict=True):
        assert_same_bits(call(op, sample, "cpu"), wanted)
    assert seen == [op] * len(some)


@pytest.mark.parametrize(("op", "name"), ONE)
def test_numpy_in_compiled_code(op: str, name: str) -> None:
    """torch.compile traces NumPy: one graph, with the op in it."""
    sample: Sample = samples.get(op, name)
    args = [_as(lambda t: t.numpy(), a) for a in sample.args()]
    run = functools.partial(getattr(ops, op), **sample.options)
    torch._dynamo.reset()
    got = torch.compile(lambda *a: run(*a), fullgraph=True, backend="aot_eager")(*args)
    want = run(*args)
    pairs = zip(got[:3], want[:3], strict=True) if isinstance(want, Windows) else [(got, want)]
    for g, w in pairs:
        assert isinstance(g, np.ndarray)
        np.testing.assert_array_equal(g, w, strict=True)


def test_kind_follows_the_first_argument() -> None:
    """Tensor windows cut a NumPy image: the answer is NumPy."""
    image, windows = samples.get("extract_patches", "normalised").args()
    assert isinstance(ops.extract_patches(image.numpy(), windows), np.ndarray)
    assert isinstance(ops.extract_patches(image, _as(lambda t: t.numpy(), windows)), torch.Tensor)


def test_arrays_as_they_come_from_image_files() -> None:
    """HWC views, read-only, flipped, with a foreign byte order."""
    image, windows = samples.get("extract_patches", "normalised").args()
    want = ops.extract_patches(image, windows).numpy()
    array = image.numpy()
    hwc = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    hwc.setflags(write=False)
    np.testing.assert_array_equal(ops.extract_patches(hwc.transpose(0, 3, 1, 2), windows), want)
    mirrored = np.ascontiguousarray(array[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    np.testing.assert_array_equal(ops.extract_patches(mirrored, windows), want)
    foreign = array.astype(">u2")
    np.testing.assert_array_equal(
        ops.extract_patches(foreign, windows, scale=1 / 255),
        ops.extract_patches(array.astype(np.uint16), windows, scale=1 / 255),
    )


def test_bfloat16_has_no_numpy_type() -> None:
    image = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    windows = Windows(
        np.zeros((1, 1, 2), np.int32), np.ones((1, 1), np.int32), np.ones(1, np.int32), 4
    )  # type: ignore[arg-type]
    got = ops.extract_patches(image, windows, dtype=torch.bfloat16)
    assert isinstance(got, np.ndarray)
    want = ops.extract_patches(torch.from_numpy(image), windows, dtype=torch.bfloat16)
    np.testing.assert_array_equal(got.astype(np.float32), want.float().numpy())


def test_read_only_arrays_leave_the_filters_of_warnings_alone() -> None:
    """They are the process's: readers in threads would take each other's."""
    code = """
import warnings
import numpy as np
from c2fcore import ops
labels = np.zeros((1, 8, 8), dtype=np.uint8)
labels.setflags(write=False)
warnings.simplefilter("error")
ops.count_windows(labels, (1,), window=4, stride=4)
before = list(warnings.filters)
warnings.catch_warnings = None
print(ops.count_windows(labels, (1,), window=4, stride=4).shape, warnings.filters == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "(1, 2, 2) True\n"


def test_no_copy_and_no_write() -> None:
    """An array larger than the memory a copy would take: count of a broadcast view."""
    one = np.ones((1, 1), np.uint8)
    seg = np.lib.stride_tricks.as_strided(one, (1, 40_000, 50_000), (0, 0, 0), writeable=False)
    got = ops.count_windows(seg[:, :64], (1,), window=64, stride=50_000, edge="drop")
    assert got.tolist() == [[[64 * 64]]]
    assert one.tolist() == [[1]]


def test_refused_kinds() -> None:
    for bad in ([[[0]]], "image.png", 3, np.array([["a"]])):
        with pytest.raises(TypeError, match=r"^count_windows: seg must "):
            ops.count_windows(bad, (1,), window=1, stride=1)


def test_a_mask_is_not_lost() -> None:
    """A tensor has no mask: what is under it would be segmented like the rest."""
    masked = np.ma.masked_all((1, 3, 8, 8), dtype=np.uint8)
    with pytest.raises(TypeError, match=r"seg must have no mask.* got a masked array; array\."):
        ops.count_windows(masked[:, 0], (1,), window=1, stride=1)
    assert ops.count_windows(masked[:, 0].filled(1), (1,), window=8, stride=8).item() == 64


@pytest.mark.parametrize(
    ("handle", "stream"), [(0xABC, ("external", 0xABC, 1)), (0, ("default", 1)), (7, None)]
)
def test_on_the_stream_of_cupy(handle: int, stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From reading the arguments to handing out the answer; torch's own is 7 here."""
    monkeypatch.setitem(sys.modules, "cupy", CuPy)  # type: ignore[misc]
    current = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: ("default", device))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda *of: ("external", *of))
    monkeypatch.setattr(torch.cuda, "stream", CuPy.stream)
    for op, name in ONE:
        CuPy.current, CuPy.inside, CuPy.seen = handle, [], []
        sample = samples.get(op, name)
        got = getattr(ops, op)(*(_as(Array, a) for a in sample.args()), **sample.options)
        want = call(op, sample, "auto")
        pairs = zip(got[:3], want[:3], strict=True) if isinstance(want, Windows) else [(got, want)]
        for g, w in pairs:
            assert isinstance(g, Array)
            assert torch.equal(g.memory, w)
        assert {step[1:] for step in CuPy.seen} == {(stream,) if stream else ()}
        assert {step[0] for step in CuPy.seen} == {"in", "out"}
        assert CuPy.inside == []


def test_cupy_memory_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", CuPy)  # type: ignore[misc]
    memory = torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert _arrays.as_tensor("op", "seg", Array(memory)).data_ptr() == memory.data_ptr()


def test_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy sees no GPU")
    for op, name in ONE:
        sample = samples.get(op, name)
        args = [_as(lambda t: cupy.asarray(t.numpy()), a) for a in sample.args()]
        got = getattr(ops, op)(*args, **sample.options)
        want = call(op, sample, "reference")
        pairs = zip(got[:3], want[:3], strict=True) if isinstance(want, Windows) else [(got, want)]
        for g, w in pairs:
            assert isinstance(g, cupy.ndarray)
            np.testing.assert_allclose(cupy.asnumpy(g), w.numpy(), atol=1e-5)


def test_arrays_whose_strides_are_no_multiple_of_their_items() -> None:
    """Such as one field of a record array."""
    records = np.zeros((2, 8, 8), dtype=[("flag", "u1"), ("label", "i4")])
    records["label"] = np.arange(128).reshape(2, 8, 8) % 3
    want = ops.count_windows(np.ascontiguousarray(records["label"]), (1,), window=4, stride=4)
    assert np.array_equal(ops.count_windows(records["label"], (1,), window=4, stride=4), want)
