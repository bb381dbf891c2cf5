"""The ops as torch.library operators: schemas, fakes, autograd, torch.compile, direct calls."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from compare import assert_same_bits, flat, to_device
from torch._subclasses.fake_tensor import FakeTensorMode

from c2fcore import Windows, _checks, _native, ops
from c2fcore.testing.agree import assert_close
from c2fcore.testing.samples.inputs import generator, noise_logits, windows_of

OP = "aggregate"  # the last op to be ported: a backend that has it has the others
LIB = torch.ops.c2fcore
WINDOWS = windows_of([[(0, 0), (3, 5), (13, 18)], [(4, 4)]], 8, 3)
SIZE = (21, 27)
LOGITS = noise_logits((2, 5, 7, 9), 1)
MAP = torch.randint(0, 4, (2, *SIZE), generator=generator(0)).to(torch.uint8)
IMAGE = noise_logits((2, 3, *SIZE), 2)
FINE = noise_logits((6, 2, 4, 4), 3)
SCORES = noise_logits((2, 5, *SIZE), 5)
RGB = [0.5, 0.25, 0.125]


def _calls(backend: str) -> dict[str, tuple[Any, ...]]:
    """Direct arguments of every registered operator: (name, arguments)."""
    where = (WINDOWS.origins, WINDOWS.num, WINDOWS.window)
    grid = ([1, 3], 8, 4, *SIZE, "flush")
    grad = noise_logits((6, 3, 12, 12), 4)
    leaf = IMAGE.clone().requires_grad_()
    patch = (12, "bilinear", 1.0, RGB, RGB, torch.float32)
    return {
        "count_windows": (LOGITS, *grid, backend),
        "select_windows": (LOGITS, *grid, 3, "cover", 1, False, backend),
        "select_windows labels": (MAP, *grid, 3, "top", 1, True, backend),
        "extract_patches": (IMAGE, *where, *patch, False, backend),
        "extract_patches grad": (leaf, *where, *patch, True, backend),
        "extract_patches_backward": (
            grad, IMAGE, *where, "bicubic", 1.0, RGB, backend,
        ),
        "extract_targets": (MAP, *where, [1, 3], 255, backend),
        "aggregate": (LOGITS, FINE, *where, [1, 3], *SIZE, "paper", "labels", backend),
        "aggregate probs": (LOGITS, FINE, *where, [1, 3], *SIZE, "official", "probs", backend),
        "aggregate probs grad": (
            LOGITS.half().requires_grad_(), FINE.clone().requires_grad_(), *where, [1, 3], *SIZE,
            "paper", "probs", backend,
        ),
        "aggregate labels grad": (
            LOGITS.clone().requires_grad_(), FINE, *where, [1, 3], *SIZE, "paper", "labels", backend
        ),
        "aggregate_backward": (
            SCORES, LOGITS, FINE, *where, [1, 3], "normalized", [True, True],
        ),
        "aggregate_backward coarse": (
            SCORES, LOGITS.half(), FINE.bfloat16(), *where, [1, 3], "paper", [True, False],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_calls("reference")))
def test_opcheck(backend: str, device: str, name: str) -> None:
    """Schema, fake tensors, autograd registration and AOT dispatch with dynamic shapes."""
    args = tuple(_leaf(a, device) for a in _calls(backend)[name])
    torch.library.opcheck(getattr(LIB, name.split()[0]).default, args)


def _leaf(value: Any, device: str) -> Any:
    """On the device; opcheck asks for gradients of leaves only, which a moved tensor is not."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to(device).requires_grad_(value.requires_grad)


def _public(backend: str) -> dict[str, Any]:
    """Every public op as a function of tensors only."""
    size: dict[str, Any] = {"size": SIZE, "backend": backend}
    own: dict[str, Any] = {"backend": backend}

    def select(seg: Any, **options: Any) -> Any:
        return ops.select_windows(seg, (1, 3), window=8, stride=4, n=3, **options, **size)[:3]

    return {
        "count_windows": lambda: ops.count_windows(LOGITS, (1, 3), window=8, stride=4, **size),
        "select_windows": lambda: select(LOGITS),
        "select_windows-all": lambda: select(MAP, strategy="all"),
        "extract_patches": lambda: ops.extract_patches(IMAGE, WINDOWS, zoom=1.5, mean=RGB, **own),
        "extract_patches-f16": lambda: ops.extract_patches(
            IMAGE, WINDOWS, dtype=torch.float16, channels_last=True, **own
        ),
        "extract_targets": lambda: ops.extract_targets(MAP, WINDOWS, (1, 3), **own),
        "aggregate": lambda: ops.aggregate(LOGITS, FINE, WINDOWS, (1, 3), **size),
        "aggregate-probs": lambda: ops.aggregate(
            LOGITS, FINE, WINDOWS, (1, 3), rule="normalized", output="probs", **size
        ),
    }


PUBLIC = list(_public("reference"))


@pytest.mark.parametrize("name", PUBLIC)
def test_fake(backend: str, device: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape, dtype, strides without running: what the fake says is what the op does."""
    for tensor in ("LOGITS", "MAP", "IMAGE", "FINE", "WINDOWS"):
        monkeypatch.setitem(globals(), tensor, to_device(globals()[tensor], device))
    want = flat(_tuple(_public(backend)[name]()))
    with FakeTensorMode() as mode:
        for tensor in ("LOGITS", "MAP", "IMAGE", "FINE"):
            monkeypatch.setitem(globals(), tensor, mode.from_tensor(globals()[tensor]))
        faked = Windows(*(mode.from_tensor(t) for t in WINDOWS[:3]), WINDOWS.window)
        monkeypatch.setitem(globals(), "WINDOWS", faked)
        got = flat(_tuple(_public(backend)[name]()))
    for g, w in zip(got, want, strict=True):
        assert (g.shape, g.dtype, g.device, g.stride()) == (w.shape, w.dtype, w.device, w.stride())


def _tuple(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("name", PUBLIC)
def test_compile(backend: str, device: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph without breaks, the same bits as eager."""
    for tensor in ("LOGITS", "MAP", "IMAGE", "FINE", "WINDOWS"):
        monkeypatch.setitem(globals(), tensor, to_device(globals()[tensor], device))
    run = _public(backend)[name]
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for g, w in zip(flat(_tuple(compiled())), flat(_tuple(run())), strict=True):
        assert_same_bits(g, w)


@pytest.mark.parametrize("name", PUBLIC)
def test_compile_of_what_was_never_called(name: str) -> None:
    """No table of what was checked may be guarded on: tracing itself adds to it."""
    run = _public("reference")[name]
    _checks._checked_ids.clear()
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for g, w in zip(flat(_tuple(compiled())), flat(_tuple(run())), strict=True):
        assert_same_bits(g, w)


def test_compile_of_other_sizes(backend: str, device: str) -> None:
    """The whole glue as one graph; a second size does not meet shapes baked in from the first."""

    def glue(logits: torch.Tensor, image: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        size: dict[str, Any] = {"size": (height, width), "backend": backend}
        windows = ops.select_windows(logits, (1, 3), window=8, stride=4, n=3, **size)
        patches = ops.extract_patches(image, windows, backend=backend)
        merged = fine + patches.mean(1, keepdim=True)[..., ::2, ::2]
        answer: torch.Tensor = ops.aggregate(logits, merged, windows, (1, 3), **size)
        return answer

    torch._dynamo.reset()
    compiled = torch.compile(glue, fullgraph=True, backend="aot_eager", dynamic=True)
    for h, w in ((7, 9), (10, 8), (6, 6)):
        logits = noise_logits((2, 5, h, w), h).to(device)
        image = noise_logits((2, 3, h * 3, w * 3), w).to(device)
        fine = FINE.to(device)
        assert torch.equal(compiled(logits, image, fine), glue(logits, image, fine))


def _glue_of(batch: int, h: int, w: int, n: int) -> dict[str, Any]:
    """Arguments of every op, no two of whose sizes are equal by chance."""
    logits, size = noise_logits((batch, 7, h, w), h), (3 * h, 3 * w)
    windows = ops.select_windows(logits, (1, 3), window=8, stride=4, n=n, size=size)
    return {
        "logits": logits,
        "labels": torch.randint(0, 4, (batch, *size), generator=generator(w)),
        "image": noise_logits((batch, 3, *size), w),
        "fine": noise_logits((batch * n, 2, 12, 13), n),
        "windows": windows,
        "n": n,
    }


@pytest.mark.parametrize(
    "call",
    [
        lambda g, s: ops.count_windows(g["logits"], (1, 3), window=8, stride=4, size=s),
        lambda g, s: ops.count_windows(g["labels"], (1, 3), window=8, stride=4, edge="drop"),
        lambda g, s: ops.select_windows(g["logits"], (1, 3), window=8, stride=4, n=g["n"], size=s),
        lambda g, s: ops.extract_patches(g["image"], g["windows"], zoom=1.5, mean=RGB),
        lambda g, s: ops.extract_targets(g["labels"], g["windows"], (1, 3)),
        lambda g, s: ops.aggregate(g["logits"], g["fine"], g["windows"], (1, 3), size=s),
    ],
    ids=["count", "count-labels", "select", "extract", "targets", "aggregate"],
)
def test_one_graph_for_all_sizes(call: Any) -> None:
    """Batch, height, width and n may change, whether windows end flush with the border or not."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Any]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def run(given: dict[str, Any]) -> Any:
        return call(given, given["image"].shape[2:])

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for given in (_glue_of(4, 9, 10, 6), _glue_of(5, 12, 11, 8), _glue_of(6, 8, 16, 11)):
        for got, want in zip(flat(_tuple(compiled(given))), flat(_tuple(run(given))), strict=True):
            assert_same_bits(got, want)
    assert len(graphs) == 1


def test_compiled_gradient(backend: str, device: str) -> None:
    windows = to_device(WINDOWS, device)

    def loss(image: torch.Tensor) -> torch.Tensor:
        patches = ops.extract_patches(image, windows, zoom=1.5, backend=backend)
        total: torch.Tensor = patches.square().sum()
        return total

    torch._dynamo.reset()
    gradients = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = IMAGE.to(device).clone().requires_grad_()
        run(leaf).backward()
        gradients.append(leaf.grad)
    assert_close(gradients[1], gradients[0], 1e-4)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("rule", ["paper", "normalized", "official"])
def test_compiled_gradient_of_the_scores(
    backend: str, device: str, rule: str, compiler: str
) -> None:
    """One graph forwards and one backwards, at the sizes seen first and at others."""
    if compiler == "inductor" and (rule, backend) != ("paper", "reference"):
        pytest.skip("compiles for seconds, and is once enough")
    windows = to_device(WINDOWS, device)

    def loss(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        size = (coarse.shape[2] * 3, coarse.shape[3] * 3)
        options: dict[str, Any] = {"size": size, "rule": rule, "backend": backend}
        scores = ops.aggregate(coarse, fine, windows, (1, 3), output="probs", **options)
        total: torch.Tensor = (scores * scores.detach().cos()).sum()
        return total

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler, dynamic=True)
    for coarse, fine in ((LOGITS, FINE), (noise_logits((2, 5, 9, 11), 6), FINE[..., :3, :])):
        found = []
        for run in (loss, compiled):
            leaves = [t.to(device).clone().requires_grad_() for t in (coarse, fine)]
            # Graphs kept on disk are of ops with the schema they had then.
            with torch.compiler.config.patch(force_disable_caches=True):
                run(*leaves).backward()
            found.append([leaf.grad for leaf in leaves])
        for got, want in zip(found[1], found[0], strict=True):
            assert want.abs().max() > 0
            assert_close(got, want, 1e-5)


def _cuts(windows: Windows, image: torch.Tensor = IMAGE) -> list[Any]:
    """Calls of the ops that take windows."""
    return [
        lambda: ops.extract_patches(image, windows),
        lambda: ops.extract_targets(MAP, windows, (1, 3)),
        lambda: ops.aggregate(LOGITS, FINE, windows, (1, 3), size=SIZE),
    ]


@pytest.mark.parametrize("field", ["origins", "num"])
def test_windows_that_are_fake_in_part(field: str) -> None:
    """No kernel may look for their memory."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = WINDOWS._replace(**{field: mode.from_tensor(getattr(WINDOWS, field))})
    for call, plain in zip(_cuts(fake), _cuts(WINDOWS), strict=True):
        assert call().shape == plain().shape
        assert type(call()) is not torch.Tensor


@pytest.mark.skipif(_native.cpu().module is None, reason=_native.cpu().reason)
def test_tensors_whose_storage_was_freed() -> None:
    freed = IMAGE.clone(), WINDOWS.origins.clone(), WINDOWS.num.clone()
    for tensor in freed:
        tensor.untyped_storage().resize_(0)
    image, origins, num = freed
    calls = [_cuts(WINDOWS, image)[0], *_cuts(WINDOWS._replace(num=num))]
    for call in [*calls, *_cuts(WINDOWS._replace(origins=origins))]:
        with pytest.raises(ValueError, match="must hold its numbers in memory"):
            call()


@pytest.mark.parametrize("name", PUBLIC)
def test_meta_tensors(
    backend: str, device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without memory get the shape of the answer; a second call is like the first."""
    names = ("LOGITS", "MAP", "IMAGE", "FINE", "WINDOWS")
    for tensor in names:
        monkeypatch.setitem(globals(), tensor, to_device(globals()[tensor], device))
    want = flat(_tuple(_public(backend)[name]()))
    for tensor in names:
        monkeypatch.setitem(globals(), tensor, to_device(globals()[tensor], "meta"))
    for _ in range(2):
        got = flat(_tuple(_public(backend)[name]()))
        for g, w in zip(got, want, strict=True):
            assert g.is_meta
            assert (g.shape, g.dtype, g.stride()) == (w.shape, w.dtype, w.stride())


OUTSIDE = WINDOWS.origins + 14  # windows that leave the image
UNCHECKED = [  # operator, argument number, value that the public function would refuse
    ("count_windows", 0, LOGITS[0]), ("count_windows", 0, LOGITS.double()),
    ("count_windows", 1, []),
    ("count_windows", 1, [5]),  # of five classes
    ("count_windows", 2, 22),  # window over the image
    ("count_windows", 2, 0),
    ("count_windows", 3, 0),  # stride
    ("count_windows", 4, 3),  # height below the logits' own
    ("count_windows", 5, 2**31), ("count_windows", 6, "wrap"),
    ("select_windows", 7, 0),  # n
    ("select_windows", 8, "best"),
    ("extract_patches", 1, WINDOWS.origins[:1]),  # fewer images than the batch
    ("extract_patches", 1, WINDOWS.origins.long()), ("extract_patches", 1, OUTSIDE),
    ("extract_patches", 1, WINDOWS.origins[..., 0]),
    ("extract_patches", 2, WINDOWS.num + 3),  # more than there are slots
    ("extract_patches", 3, 100),
    ("extract_patches", 4, 0),  # side of a patch
    ("extract_patches", 5, "cubic"),
    ("extract_patches", 7, [0.5]),  # mean of one channel for three
    ("extract_patches", 8, [1.0, 0.0, 1.0]), ("extract_patches", 9, torch.uint8),
    ("extract_patches_backward", 0, torch.zeros(5, 3, 12, 12)),
    ("extract_patches_backward", 0, torch.zeros(6, 3, 12, 11)),
    ("extract_patches_backward", 0, torch.zeros(6, 3, 12, 12, dtype=torch.int32)),
    ("extract_patches_backward", 1, IMAGE[:1]),
    ("extract_patches_backward", 2, WINDOWS.origins.long()), ("extract_patches_backward", 4, 22),
    ("extract_patches_backward", 5, "cubic"), ("extract_targets", 0, MAP.float()),
    ("extract_targets", 1, OUTSIDE), ("extract_targets", 3, 22), ("extract_targets", 5, 256),
    ("aggregate", 1, FINE[:5]), ("aggregate", 1, FINE.repeat(1, 2, 1, 1)),
    ("aggregate", 1, FINE.double()), ("aggregate", 2, OUTSIDE), ("aggregate", 4, 0),
    ("aggregate", 6, 3), ("aggregate", 8, "mean"), ("aggregate", 9, "scores"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "value"), UNCHECKED,
                         ids=[f"{u[0]}-{u[1]}-{i}" for i, u in enumerate(UNCHECKED)])  # fmt: skip
def test_direct_calls_are_checked_too(
    backend: str, device: str, name: str, place: int, value: Any
) -> None:
    """torch.ops.c2fcore.* skips the public function, and no check; nor does a compiler's fake."""
    in_tensors = value is OUTSIDE or (name == "extract_patches" and place == 2)
    if in_tensors and device != "cpu":
        pytest.skip("on a GPU the host does not read what windows hold")
    args = list(_calls(backend)[name])
    args[place] = value
    for _ in range(2):  # what is wrong is not remembered as right
        with pytest.raises((ValueError, TypeError), match=rf"^{name}: "):
            getattr(LIB, name)(*(a.to(device) if isinstance(a, torch.Tensor) else a for a in args))
    if in_tensors:
        return
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        with pytest.raises((ValueError, TypeError), match=rf"^{name}: "):
            getattr(LIB, name)(*args)


def test_vmap_and_subclasses_do_not_reach_a_pointer() -> None:
    """functorch tensors have no memory of their own: an error or the right answer, not garbage."""
    seg = MAP[:, None]

    def count(x: torch.Tensor) -> torch.Tensor:
        counted: torch.Tensor = ops.count_windows(x, (1,), window=8, stride=4)
        return counted

    want = torch.stack([count(x) for x in seg])
    try:
        got = torch.vmap(count)(seg)
    except (RuntimeError, NotImplementedError):
        return
    assert torch.equal(got, want)


def test_parameters_and_inference_mode(backend: str, device: str) -> None:
    want = ops.extract_patches(IMAGE.to(device), to_device(WINDOWS, device), backend=backend)
    with torch.inference_mode():
        windows = to_device(WINDOWS, device)
        got = ops.extract_patches(IMAGE.to(device).clone(), windows, backend=backend)
        assert torch.equal(got, want)
    parameter = torch.nn.Parameter(IMAGE.to(device))
    got = ops.extract_patches(parameter, to_device(WINDOWS, device), backend=backend)
    assert torch.equal(got, want)


def test_lazily_negated_images(backend: str, device: str) -> None:
    """A view whose values are the negative of what its memory holds (the imaginary part of a lazily
    conjugated tensor is one): kernels that read memory have to notice."""
    image = torch.complex(IMAGE, IMAGE).to(device).conj().imag
    assert image.is_neg()
    got = ops.extract_patches(image, to_device(WINDOWS, device), backend=backend)
    want = ops.extract_patches(-IMAGE.to(device), to_device(WINDOWS, device), backend=backend)
    assert torch.equal(got, want)
    logits = torch.complex(LOGITS, LOGITS).to(device).conj().imag
    counts = [
        ops.count_windows(x, (1, 3), window=4, stride=2, backend=backend)
        for x in (logits, -LOGITS.to(device))
    ]
    assert torch.equal(*counts)


def test_importing_the_package_registers_the_ops() -> None:
    """As torch.export.load wants it for programs that call them."""
    script = "import c2fcore, torch; print(torch.ops.c2fcore.count_windows.default.name())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "c2fcore::count_windows\n", done.stderr
