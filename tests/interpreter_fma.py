"""Makes Triton's interpreter round a fused multiply-add once, as compiled kernels do.

Imported when kernels run in the interpreter, which multiplies and adds in float32: two roundings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter


def _fma(_: Any, x: Any, y: Any, z: Any) -> Any:
    assert z.data.dtype == np.float32
    # float64 holds the product of two float32 exactly.
    with np.errstate(invalid="ignore", over="ignore"):
        found = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(found.astype(np.float32), z.dtype.scalar)


interpreter.InterpreterBuilder.create_fma = _fma
