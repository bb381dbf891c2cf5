"""What kernels/triton/_ptx.py and _divider.py answer, against NumPy: compiled, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Run = Callable[..., None]  # (kernel, *arguments, BLOCK=...)
EDGES = (0.0, -0.0, 1.0, -1.0, 6e-8, -6e-8, 65504.0, -65504.0, np.inf, -np.inf, np.nan)
SIZE = 128


def _pairs(dtype: Any) -> tuple[Any, Any]:
    """Two arrays with every edge beside every other one, and random numbers, some of them equal."""
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-4, 5, 2 * SIZE).astype(dtype) / 4 for _ in range(2))
    grid = np.array([(x, y) for x in EDGES for y in EDGES], dtype)
    a[: len(grid)], b[: len(grid)] = grid.T
    return a.astype(dtype), b.astype(dtype)


def check_halves(run: Run) -> None:
    """Strictly larger halves, with their labels; no NaN is larger than, or equal to, any."""
    from triton_probes import halves_kernel

    a, b = _pairs(np.float16)
    a[np.isnan(a)] = -np.inf  # the best so far is never a NaN
    found = torch.empty(3, SIZE, dtype=torch.int32)
    tensors = [torch.from_numpy(x.view(np.int32).copy()) for x in (a, b)]
    run(halves_kernel, *tensors, *found.unbind(), BLOCK=SIZE)
    larger, label, equal = found.numpy()
    better = b > a
    assert (larger.view(np.float16) == np.where(better, b, a)).all()
    first, second = np.tile([3, 5], SIZE), np.tile([8, 9], SIZE)
    assert (label.view(np.int16) == np.where(better, second, first)).all()
    assert (equal.view(np.int16) == np.where(a == b, -1, 0)).all()


def check_below(run: Run) -> None:
    """Signs of differences, comparisons but for zeros; differences in [0, 1]."""
    from triton_probes import below_kernel

    a, b = (x[:SIZE] for x in _pairs(np.float32))
    below, unit = torch.empty(SIZE, dtype=torch.int32), torch.empty(SIZE)
    run(below_kernel, *(torch.from_numpy(x.copy()) for x in (a, b)), below, unit, BLOCK=SIZE)
    with np.errstate(invalid="ignore"):
        difference = a - b
    known = ~np.isnan(difference)
    negative = np.signbit(difference) & known
    assert (negative == (a < b))[difference != 0].all()
    assert (below.numpy() == 2 * np.arange(SIZE) + negative).all()
    assert (unit.numpy()[known] == np.clip(difference, 0, 1)[known]).all()


def check_first_bit(run: Run) -> None:
    """From the highest bit on, and all words without one."""
    from triton_probes import bits_kernel

    generator = np.random.default_rng(1)
    words = generator.integers(0, 1 << 32, SIZE, np.uint64) >> (np.arange(SIZE) % 33).astype("u8")
    words[:4] = 0, 1, (1 << 32) - 1, 1 << 31
    word = torch.from_numpy(words.astype(np.uint32).view(np.int32))
    number, rest = torch.empty(2, SIZE, dtype=torch.int32).unbind()
    run(bits_kernel, word, number, rest, BLOCK=SIZE)
    lengths = [int(w).bit_length() for w in words]
    assert number.tolist() == [32 - n if n else 0 for n in lengths]
    left = [int(w) & ~(1 << n - 1) if n else 0 for w, n in zip(words, lengths, strict=True)]
    assert (rest.numpy().view(np.uint32) == np.array(left, np.uint32)).all()


def check_divided(run: Run) -> None:
    """Quotients and remainders at and beside multiples, up to the largest number."""
    from triton_probes import divided_kernel

    from c2fcore.kernels.triton._divider import divider

    most = (1 << 31) - 1
    generator = np.random.default_rng(2)
    powers = [1 << bits for bits in range(31)]
    numbers = [*powers, *(p + 1 for p in powers), *(p - 1 for p in powers[1:]), most, most - 1]
    numbers += (generator.integers(1, most, 40) >> (np.arange(40) % 30)).tolist()
    for number in map(int, numbers):
        multiples = np.concatenate(
            [np.arange(20), most // number - np.arange(20), generator.integers(0, most, 20)]
        )
        multiples = np.clip(multiples, 0, most // number) * number
        value = np.clip(np.concatenate([multiples, multiples + number - 1, [most] * 8]), 0, most)
        found = torch.full((2, SIZE), -1, dtype=torch.int32)
        tensor = torch.from_numpy(value.astype(np.int32))
        run(divided_kernel, tensor, *found.unbind(), divider(number), BLOCK=SIZE)
        assert (found.numpy() == np.divmod(value, number)).all(), number


CHECKS = [check_halves, check_below, check_first_bit, check_divided]
