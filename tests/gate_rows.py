"""Rows as `c2f bench --op` writes them, with the figures that a test wants."""

from __future__ import annotations

from typing import Any


def row_of(op: str, way: str, size: int, **result: Any) -> dict[str, Any]:
    options = result.pop("options", {})
    case = {
        "op": op, "provider": way, "size": size, "options": options, "device": "cuda",
        "dtype": result.pop("dtype", "float16"), "content": "realistic", "preset": "",
        "layout": "planar", "classes": 16, "threads": 1,
    }  # fmt: skip
    return {"suite": "op", "case": case, "result": result, "error": ""}
