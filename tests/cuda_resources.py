"""What nvcc made of the CUDA kernels: registers, stack and shared memory, read from the module."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

_FUNCTION = re.compile(r"^\s*Function (\S+):$")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)")
_TYPES = {"f": "float", "N_3F16E": "F16", "N_4BF16E": "BF16", "h": "uint8", "s": "int16"}
_TYPES |= {"i": "int32", "l": "int64"}
_TYPES |= {"t": "uint16"}
# Kernels without a kind: what their number says.
_ARGUMENTS = {
    "aggregate_labels_kernel": "N = {}",
    "aggregate_probs_kernel": "N = {}",
    "extract_patches_kernel": "{} taps",
    "extract_patches_backward_kernel": "{} taps",
    "extract_targets_kernel": "",
}
_KINDS = ("labels", "own size", "upsampled")
_LABEL_KINDS = ("labels given", "own size", "upsampled")


class Usage(NamedTuple):
    """One kernel on one architecture; bytes are of a thread, shared ones of a block."""

    sm: int
    kernel: str
    registers: int
    stack: int
    shared: int
    local: int


def cuobjdump() -> Path | None:
    """The tool that reads it; triton brings one."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return found if found.exists() else None


def usage(tool: Path, module: str) -> list[Usage]:
    """Every kernel of a compiled module, per architecture."""
    text = _run(tool, "-res-usage", module)
    found: list[Usage] = []
    sm, name = 0, ""
    for line in text.splitlines():
        if match := re.match(r"^arch = sm_(\d+)", line):
            sm = int(match[1])
        elif match := _FUNCTION.match(line):
            name = match[1]
        elif (match := _USAGE.search(line)) and "kernel" in name:
            registers, stack, shared, local = map(int, match.groups())
            found.append(Usage(sm, readable(name), registers, stack, shared, local))
    return found


def compiler(module: str) -> str:
    """The version of nvcc, as it is written into all machine code."""
    tools = rb"Cuda compilation tools, release [\d.]+, V([\d.]+)"
    found = re.search(tools, Path(module).read_bytes())
    return found[1].decode() if found else ""


def beginnings(tool: Path, module: str, sm: int) -> dict[str, list[str]]:
    """The first machine instructions of every kernel, each without its predicate and operands."""
    found: dict[str, list[str]] = {}
    code: list[str] = []
    command = [str(tool), "-arch", f"sm_{sm}", "-sass", module]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Function :" in line:
                code = found.setdefault(readable(line.split()[-1]), [])
            elif len(code) < 100 and (match := _INSTRUCTION.match(line)):
                code.append(match[1])
    assert process.returncode == 0
    return found


def architectures(tool: Path, module: str) -> tuple[set[int], set[int]]:
    """Architectures with machine code, and those with PTX."""

    def of(option: str, ending: str) -> set[int]:
        return {
            int(number)
            for number in re.findall(rf"\.sm_(\d+)\.{ending}", _run(tool, option, module))
        }

    return of("-lelf", "cubin"), of("-lptx", "ptx")


def readable(symbol: str) -> str:
    """The name of an instantiation, shorter than the compiler's: windows_kernel<float, 16, ...>."""
    base = re.search(r"\d+([a-z_]+_kernel)", symbol)
    name = base[1] if base else symbol
    if base and base[1] in _ARGUMENTS:
        found = re.match(rf"[^I]*{name}I(N_3F16E|N_4BF16E|NS_3F16E|NS_4BF16E|[fhstil])?", symbol)
        type_name = _TYPES.get((found[1] or "").replace("NS_", "N_"), "") if found else ""
        number = re.search(rf"{name}I\S*?Li(\d+)E", symbol)
        kind = re.search(r"LabelKindE(\d)", symbol)
        parts = [type_name, _ARGUMENTS[name].format(number[1]) if number else ""]
        parts.append(_LABEL_KINDS[int(kind[1])] if kind else "")
        return " ".join([name, ", ".join(part for part in parts if part)])
    match = re.search(r"_kernelI(N_3F16E|N_4BF16E|NS_3F16E|NS_4BF16E|[fhsil])Li(\d+)E(.*)", symbol)
    if match is None:
        return name
    kind = re.search(r"CellKindE(\d)", match[3])
    type_name = _TYPES.get(match[1].replace("NS_", "N_"), match[1])
    classes = "" if type_name.startswith(("int", "uint")) else f", N = {match[2]}"
    return f"{name} {type_name}{classes}" + (f", {_KINDS[int(kind[1])]}" if kind else "")


def named(kernel: str) -> str:
    """What readable() says of a kernel that C++ names: windows_kernel<float, 16, ...>."""
    name, _, rest = kernel.rstrip(">").partition("<")
    arguments = rest.split(", ") if rest else []
    kinds = {f"CellKind::k{_camel(kind)}": kind for kind in _KINDS}
    kinds |= {f"LabelKind::k{_camel(kind)}": kind for kind in ("own size", "upsampled")}
    kinds["LabelKind::kGiven"] = "labels given"
    number = _ARGUMENTS.get(name, "" if "CellKind::kLabels" in arguments else "N = {}")
    words = [
        kinds.get(each) or (number.format(each) if each.isdigit() else each.removesuffix("_t"))
        for each in arguments
    ]
    return " ".join([name, *filter(None, [", ".join(filter(None, words))])])


def _camel(words: str) -> str:
    return words.title().replace(" ", "")


def _run(tool: Path, option: str, module: str) -> str:
    done = subprocess.run([str(tool), option, module], text=True, capture_output=True, check=True)
    return done.stdout
