"""What a call costs, and that what is remembered of checked calls never answers for another one."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from c2fcore import Windows, _checks, _native, ops
from c2fcore.bench.tiny import tiny_calls
from c2fcore.ops import _library
from c2fcore.testing.samples.inputs import noise_logits, windows_of

needs_native = pytest.mark.skipif(_native.cpu().module is None, reason=_native.cpu().reason)
needs_keys = pytest.mark.skipif(
    _native.call_key()(0) is None, reason="without DLPack's C interface nothing is remembered"
)
LABELS = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(0))
LOGITS = noise_logits((2, 4, 4, 4), 0)
WINDOWS = windows_of([[(0, 0), (8, 8)], [(1, 2)]], 8, 2)
MOST_NEGS = 20  # calls measured: 3 to 8; without what is remembered 8 to 20


def _fastest(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(50):
        call()
    return time.perf_counter() - start


@needs_keys
@pytest.mark.parametrize("name", list(tiny_calls("cpu")))
def test_a_call_costs_no_more_than_some_of_torchs(name: str) -> None:
    """Short samples in turn, the least of each: other load on the machine meets both."""
    call, numbers = tiny_calls("cpu")[name], torch.zeros(4)
    own, yardstick = [], []
    for _ in range(100):
        own.append(_fastest(call))
        yardstick.append(_fastest(lambda: torch.neg(numbers)))
    assert min(own) < MOST_NEGS * min(yardstick)


def _key(*args: Any) -> bytes | None:
    return _native.call_key()(len(args), *args)


@needs_keys
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True), (1, 1.0), (0, False), (0.0, -0.0), (1, "1"), (1, 2), (None, 0), ("", None),
        ((1, 2), (1, 2.0)), ((1, 2), (12,)), (((1,), 2), ((1, 2),)), ((), None),
        (torch.float16, torch.bfloat16), (LABELS, LABELS.int()), (LABELS, LABELS[:1]),
        (LABELS, LABELS[..., :8]), (LABELS, LABELS[None]), (LABELS, None),
        (WINDOWS, (1, 2)), (WINDOWS, WINDOWS._replace(window=4)),
    ],
    ids=str,
)  # fmt: skip
def test_different_calls_have_different_keys(one: Any, other: Any) -> None:
    assert _key(one) is not None
    assert _key(one) != _key(other)
    assert _key(one, other) not in (_key(other, one), _key(one), _key(other))


@needs_keys
def test_equal_calls_have_equal_keys() -> None:
    call = (1, 0.5, "flush", None, (16, 16), True, torch.float32)
    assert _key(LABELS, WINDOWS, *call) == _key(LABELS.clone(), Windows(*WINDOWS), *call)
    assert _key([1, 2]) == _key((1, 2)) == _key(torch.Size((1, 2)))
    assert _key(torch.nn.Parameter(LOGITS)) == _key(LOGITS)


class _Sub(torch.Tensor):
    pass


@needs_native
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_has_no_key() -> None:
    endless: list[Any] = []
    endless.append(endless)
    strange = [
        2**63, np.int64(1), np.ones(2), {1}, b"1", endless, tuple(range(1000)), "\ud800",
        (LABELS,), [torch.tensor(0.5)], tuple(WINDOWS), WINDOWS._replace(window=torch.tensor(4)),
        LABELS.as_subclass(_Sub), LOGITS.to_sparse(), LOGITS.to("meta"),
        torch.nested.nested_tensor([LOGITS[0]]), torch._efficientzerotensor((1, 3)),  # type: ignore[attr-defined]
        torch.complex(LOGITS, LOGITS).conj().imag, WINDOWS._replace(counts=None),
        WINDOWS._replace(origins=WINDOWS.origins.numpy()),
    ]  # fmt: skip
    for value in strange:
        assert _key(value) is None
        assert _key(1, (value,)) is None
    assert _native.call_key()(1, LABELS, LABELS) is None
    seen = []
    torch.vmap(lambda x: seen.append(_key(x)) or x)(LOGITS)
    torch.func.grad(lambda x: seen.append(_key(x)) or x.sum())(LOGITS)
    assert seen == [None, None]


@pytest.mark.parametrize("place", ["reference", "auto"])
def test_a_call_that_was_fine_excuses_no_other(place: str) -> None:
    """Each of these equals one that passed, or has a tensor of the same shape."""
    grid: dict[str, Any] = {"window": 1, "stride": 1, "backend": place}
    for _ in range(2):
        ops.count_windows(LOGITS, (1, 2), **grid)
        ops.extract_targets(LABELS, WINDOWS, (1, 2), backend=place)
        wrong = (("window", True), ("stride", 1.0), ("size", (16, True)), ("edge", b"flush"))
        for name, value in wrong:
            with pytest.raises((TypeError, ValueError), match=rf"^count_windows: {name} m"):
                ops.count_windows(LOGITS, (1, 2), **{**grid, name: value})
        for ids in ((1, True), (1.0, 2), [1, np.True_], (1, 4)):
            with pytest.raises((TypeError, ValueError), match=r"^count_windows: small_classes m"):
                ops.count_windows(LOGITS, ids, **grid)  # type: ignore[arg-type]
        for windows in (tuple(WINDOWS), WINDOWS._replace(counts=None)):
            with pytest.raises(TypeError, match=r"^extract_targets: windows"):
                ops.extract_targets(LABELS, windows, (1, 2), backend=place)  # type: ignore[arg-type]
        outside = WINDOWS._replace(origins=WINDOWS.origins + 14)
        with pytest.raises(ValueError, match="must lie inside"):
            ops.extract_targets(LABELS, outside, (1, 2), backend=place)


@pytest.mark.parametrize("dtype", ["uint4", "int4"])
def test_bytes_excuse_no_numbers_of_fewer_bits(dtype: str) -> None:
    """Which take a byte each, and are of 8 bits in DLPack."""
    if not hasattr(torch, dtype):
        pytest.skip(f"no torch.{dtype}")
    few = torch.empty(LABELS.shape, dtype=getattr(torch, dtype))
    many = LABELS.to(getattr(torch, dtype[:-1] + "8"))
    assert _key(few) is None or _key(few) != _key(many)
    ops.count_windows(LABELS.byte(), (1, 2), window=1, stride=1)
    with pytest.raises(TypeError, match=rf"^count_windows: seg must .* got torch\.{dtype}$"):
        ops.count_windows(few, (1, 2), window=1, stride=1)


def test_numbers_in_tensors_are_read_at_every_call() -> None:
    """Of a tensor that is no image, map or part of windows the values matter, not the shape."""
    image = LOGITS.abs()
    for value in (1, 2):
        one, ids = torch.tensor(value), torch.tensor([value, 0])
        grid: dict[str, Any] = {"window": one, "stride": one, "size": (2 + 2 * one, 4)}
        plain: dict[str, Any] = {"window": value, "stride": value, "size": (2 + 2 * value, 4)}
        assert torch.equal(
            ops.count_windows(LOGITS, ids, **grid), ops.count_windows(LOGITS, (value, 0), **plain)
        )
        given: dict[str, Any] = {"zoom": one, "scale": one, "mean": one, "std": [one] * 4}
        want = {"zoom": value, "scale": value, "mean": value, "std": [value] * 4}
        windows = WINDOWS._replace(origins=0 * WINDOWS.origins, window=4)
        assert torch.equal(
            ops.extract_patches(image, windows, **given),
            ops.extract_patches(image, windows, **want),
        )


@pytest.mark.parametrize("place", ["reference", "auto"])
def test_an_array_of_no_dimension_is_a_label_to_ignore(place: str) -> None:
    want = ops.extract_targets(LABELS, WINDOWS, (1, 2), ignore_index=3, backend=place)
    got = ops.extract_targets(LABELS, WINDOWS, (1, 2), ignore_index=np.array(3), backend=place)  # type: ignore[arg-type]
    assert torch.equal(got, want)


def test_lists_are_read_at_every_call() -> None:
    ids, size = [1], [16, 16]
    first = ops.count_windows(LOGITS, ids, window=8, stride=8, size=size)
    ids.append(2)
    size[1] = 24
    second = ops.count_windows(LOGITS, ids, window=8, stride=8, size=size)
    assert first.shape == (2, 2, 2)
    assert second.shape == (2, 2, 3)
    assert torch.equal(second, ops.count_windows(LOGITS, (1, 2), window=8, stride=8, size=(16, 24)))


@needs_keys
def test_a_list_that_changes_during_its_check_is_not_remembered() -> None:
    """Another thread does that: the answer for what it became must not answer for what it was."""
    ids = [1]

    def count_late(given: list[int]) -> int:
        if given is ids:
            given.append(2)
        return len(given)

    count = _library.remembered(count_late)
    assert count(ids) == 2
    assert count([1]) == 1


def test_ids_outlive_the_table_of_checked_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may empty it between two looks."""

    class Emptied(dict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            return True

        def __setitem__(self, key: Any, value: Any) -> None:
            pass

    monkeypatch.setattr(_checks, "_checked_ids", Emptied())
    assert _checks.class_ids("op", (1, 2), 3) == (1, 2)
    assert _checks.class_ids("op", [0], 3) == (0,)
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, got 2"):
        _checks.class_ids("op", (1, 2), 2)


@needs_native
def test_types_of_tensors_are_not_kept() -> None:
    """The module remembers the type it was asked for last, and lets go of the others."""
    other = LABELS.as_subclass(_Sub)
    before = [sys.getrefcount(t) for t in (torch.Tensor, _Sub)]
    for _ in range(50):
        for seg in (other, LABELS):
            ops.count_windows(seg, (1,), window=4, stride=2, backend="cpu")
    after = [sys.getrefcount(t) for t in (torch.Tensor, _Sub)]
    assert max(b - a for a, b in zip(before, after, strict=True)) < 10


def test_strides_are_no_part_of_what_is_remembered() -> None:
    """Sparse in memory, or transposed: the same answers as of plain copies."""
    wide = Windows(*(t.repeat_interleave(2, 0)[::2] for t in WINDOWS[:3]), WINDOWS.window)
    flipped = WINDOWS._replace(origins=WINDOWS.origins.mT.contiguous().mT)
    want = ops.extract_targets(LABELS, WINDOWS, (1, 2))
    for windows in (wide, flipped):
        assert torch.equal(ops.extract_targets(LABELS, windows, (1, 2)), want)
    strided = LABELS.mT.contiguous().mT
    assert torch.equal(ops.extract_targets(strided, WINDOWS, (1, 2)), want)


@needs_native
def test_results_share_no_memory() -> None:
    held: list[torch.Tensor] = []
    for _ in range(3):
        for call in tiny_calls("cpu").values():
            found = call()
            held += found[:3] if isinstance(found, tuple) else (found,)
    spans = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in held)
    assert all(end <= begin for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))
    assert all(t.data_ptr() % 64 == 0 and t._base is None for t in held)
    copies = [t.clone() for t in held]
    for call in tiny_calls("cpu").values():
        call()
    assert all(torch.equal(t, copy) for t, copy in zip(held, copies, strict=True))


@needs_native
def test_inference_mode_makes_inference_tensors() -> None:
    with torch.inference_mode():
        assert ops.count_windows(LABELS, (1,), window=4, stride=2).is_inference()
    assert not ops.count_windows(LABELS, (1,), window=4, stride=2).is_inference()


@needs_native
@pytest.mark.parametrize("side", [16, 300])
def test_small_and_large_outputs(side: int) -> None:
    """Small ones lie in memory of our own, large ones in torch's."""
    labels = LABELS.repeat(1, side // 16 + 1, side // 16 + 1)[:, :side, :side].contiguous()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        image = labels[:, None].to(dtype)
        got = ops.extract_patches(image, WINDOWS, zoom=side / 8, dtype=dtype, backend="cpu")
        want = ops.extract_patches(image, WINDOWS, zoom=side / 8, dtype=dtype, backend="reference")
        assert got.dtype == dtype
        assert got.stride() == want.stride()
        torch.testing.assert_close(got, want)
    got, want = (
        ops.select_windows(labels, (1,), window=4, stride=2, n=3, backend=b, _return_labels=True)[1]
        for b in ("cpu", "reference")
    )
    assert torch.equal(got, want)


@needs_native
def test_threads_that_call_at_once() -> None:
    """More kinds of calls than are remembered, from four threads."""
    expected = {
        (k, s): ops.count_windows(LABELS, (1, 3), window=k, stride=s)
        for k in range(1, 17)
        for s in range(1, 9)
    }
    wrong: list[tuple[int, int]] = []

    def work(first: int) -> None:
        keys = list(expected)
        for i in range(2 * len(keys)):
            k, s = keys[(i * 7 + first) % len(keys)]
            got = ops.count_windows(LABELS, (1, 3), window=k, stride=s)
            if not torch.equal(got, expected[k, s]):
                wrong.append((k, s))

    threads = [threading.Thread(target=work, args=(13 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _in_a_mode(look: Callable[[], Any]) -> Any:
    with TorchDispatchMode():
        return look()


def _in_forward_mode(look: Callable[[], Any]) -> Any:
    with forward_ad.dual_level():
        return look()


def _while_compiling(look: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "_is_compiling_flag", True)
        return look()


def _within(transform: Callable[..., Any], look: Callable[[], Any]) -> Any:
    found = []
    transform(lambda x: found.append(look()) or x.sum())(torch.ones(2, 2))
    return found[0]


def _trace(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: torch.jit.trace(function, (x,), check_trace=False)


@needs_keys
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "watch",
    [_in_a_mode, _in_forward_mode, _while_compiling]
    + [functools.partial(_within, t) for t in (torch.vmap, torch.func.grad, _trace)],
    ids=["mode", "forward", "compiling", "vmap", "grad", "trace"],
)
def test_what_must_see_calls_sees_remembered_ones(watch: Callable[..., Any]) -> None:
    """Although none of the call's own tensors has to do with it."""
    check = _library.remembered(lambda labels: labels.dtype)
    assert check(LABELS) == torch.int64
    assert watch(lambda: check(LABELS)) is None
    assert check(LABELS) == torch.int64


@needs_keys
def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(_library, "_MOST_KNOWN", 4)
    double = _library.remembered(lambda x: asked.append(x) or 2 * x)
    assert [double(i) for i in (1, 2, 1, 2, 3, 4, 1)] == [2, 4, 2, 4, 6, 8, 2]
    assert asked == [1, 2, 3, 4]
    assert [double(5), double(1)] == [10, 2]
    assert asked == [1, 2, 3, 4, 5, 1]


_PAGES_OF_OUTPUTS = """
import re
from pathlib import Path

import torch
from c2fcore.testing.samples.inputs import windows_of

from c2fcore import ops


def flags(address):  # "hg" among them: large pages were asked for
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(text, 16) for text in found.groups())
            inside = start <= address < end
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"no memory at {address:#x}")


for side in (256, 2048):  # the small one first: memory of the heap keeps what was once asked for it
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    patches = ops.extract_patches(image, windows_of([[(0, 0)]], side, 1), backend="cpu")
    print(side, "hg" in flags(patches.data_ptr() + patches.nbytes // 2))
"""


@needs_native
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="Linux with large pages only"
)
def test_large_outputs_ask_for_large_pages() -> None:
    """48 MiB have 12288 small pages, which the system would clear at one fault each."""
    done = subprocess.run(
        [sys.executable, "-c", _PAGES_OF_OUTPUTS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["256", "False", "2048", "True"], done.stderr
