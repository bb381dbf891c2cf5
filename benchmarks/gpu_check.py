"""Everything that needs a GPU, in one command without a network: make gpu-check.

    python benchmarks/gpu_check.py                          all stages within ten minutes
    python benchmarks/gpu_check.py --only install,tests     some of them; see --list
    python benchmarks/gpu_check.py --only bench --budget 1500 --out FOLDER

In two turns on one machine, as a short loan asks for:

    python benchmarks/gpu_check.py --only install,tests,sanitize,bench-warm --budget 420
    python benchmarks/gpu_check.py --only bench --skip install,bench-warm --budget 330

Run it with the Python whose torch sees the GPU. The project is installed into environments of its
own under build/gpu-check, which see the packages of that Python. Stages run at the same time where
the machine allows, each has a time limit, and one that fails ends nothing but itself. Rows, summary
and gates go to OUT/DEVICE, the logs beside them into one file. Without a GPU it says so and ends
with 0; otherwise with 1 if a stage failed or a gate was measured and not met.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gates
import stages
from gpu_stages import Plan, every_stage

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "gpu-check"
TEN_MINUTES = 570.0  # and some seconds to start, to sum up, to leave
LOG_BYTES = 150_000  # of one stage, in the file of all logs: some 12 MB at most

# Asked of the Python that runs this, in a process that ends: no CUDA context stays behind.
_PROBE = """
import json
try:
    import torch
    answer = {"torch": torch.__version__, "python": __import__("sys").version.split()[0]}
    if not torch.cuda.is_available():
        raise RuntimeError("torch %s sees no CUDA device" % torch.__version__)
    p = torch.cuda.get_device_properties(0)
    answer.update(device=p.name, devices=torch.cuda.device_count(), cuda=torch.version.cuda,
                  capability=[p.major, p.minor], memory_gib=round(p.total_memory / 2**30, 1),
                  multiprocessors=p.multi_processor_count)
    try:
        from importlib.metadata import version
        answer["triton"] = version("triton")
    except Exception:
        pass
except Exception as error:
    answer = {"reason": "%s: %s" % (type(error).__name__, error)}
print(json.dumps(answer))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check."""
    args = parser().parse_args(arguments)
    machine = probe()
    everything = every_stage(Plan(ROOT, WORK, args.out, machine.get("capability", [9, 0])))
    if args.list:
        for stage in everything:
            print(f"{stage.name:34} at most {stage.limit_s:4.0f} s, {stage.cores} cores")
        return 0
    chosen = choose(everything, args.only, args.skip)
    if "reason" in machine:
        print(f"gpu-check: no GPU to check on: {machine['reason']}. Nothing was run.")
        return 0
    folder = args.out / slug(machine["device"])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("native", "python"):
        environment(WORK / name)
    origin = {**machine, **source(), "date": now(), "cores": args.cores, "budget_s": args.budget}
    print(f"gpu-check: {machine['device']}, torch {machine['torch']}; results go to {folder}")

    def keep(results: list[stages.Result]) -> list[gates.Verdict]:
        judged = gates.judge(gates.read(folder))
        extra = {"origin": origin, "gates": [verdict._asdict() for verdict in judged]}
        (folder / "gpu-check.json").write_text(stages.summary(results, extra))
        return judged

    results = stages.run(
        chosen,
        cores=args.cores,
        budget_s=args.budget,
        logs=WORK / "logs",
        cwd=WORK,
        finished=keep,
    )
    judged = keep(results)
    gather(results, folder / "gpu-check.log")
    print("\n" + "\n".join(map(stages.line_of, results)) + "\n\n" + gates.table(judged))
    print(f"\n-> {folder}")
    bad = any(result.status in (stages.FAILED, stages.TIMEOUT) for result in results)
    return 1 if bad or any(verdict.met is False for verdict in judged) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="gpu_check.py",
        description=(__doc__ or "").split("Standard")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--only", default="", help="stages by the beginning of their names, by commas"
    )
    made.add_argument("--skip", default="", help="likewise, left out")
    made.add_argument("--budget", type=float, default=TEN_MINUTES, help="seconds for all (570)")
    made.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="to make use of")
    made.add_argument("--list", action="store_true", help="list the stages and end")
    made.add_argument(
        "-o",
        "--out",
        type=lambda text: Path(text).resolve(),
        default=ROOT / "benchmarks" / "results",
        help="folder of results (benchmarks/results)",
    )
    return made


def choose(everything: Sequence[stages.Stage], only: str, skip: str) -> list[stages.Stage]:
    """The stages asked for, and the installations they need that are not there yet.

    An installation that is skipped by name is left out even so.

    Raises:
        SystemExit: a word that no stage begins with.
    """
    chosen = list(everything)
    for text, keep in ((only, True), (skip, False)):
        words = words_of(text)
        for word in words:
            if not any(stage.name.startswith(word) for stage in everything):
                raise SystemExit(f"gpu-check: no stage begins with {word!r}; --list shows them")
        if words:
            chosen = [s for s in chosen if s.name.startswith(words) == keep]
    needed = {name for stage in chosen for name in stage.after}
    missing = [
        stage
        for stage in everything
        if stage.name.startswith("install")
        and stage.name in needed
        and stage not in chosen
        and not any(stage.name.startswith(word) for word in words_of(skip))
        and not (WORK / f"{stage.name}.done").exists()
    ]
    return missing + chosen


def words_of(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def probe() -> dict[str, Any]:
    """The GPU and the versions that come with this Python; {"reason"} if there is none."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"reason": f"{sys.executable} ended with {done.returncode} when it was asked"}
    return answer


def environment(folder: Path) -> None:
    """An environment without packages of its own, which sees those of the running Python.

    That Python may live in an environment itself, which --system-site-packages would skip.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=False, symlinks=True)
    seen = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    own = next(folder.glob("lib/python3*/site-packages"))
    (own / "zz_outer.pth").write_text("\n".join(seen) + "\n")


def source() -> dict[str, Any]:
    """What is checked: the commit, and a hash of the files in any case.

    A copy of a checkout that git does not know has its commit from C2F_COMMIT, if that is set.
    """

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
            )
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    digest = hashlib.sha256()
    for folder in ("c2fcore", "kernels", "csrc", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".h", ".cuh", ".cu", ".cpp") and path.is_file():
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return {
        "commit": os.environ.get("C2F_COMMIT") or git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "sources_sha256": digest.hexdigest(),
    }


def slug(device: str) -> str:
    """Name of a device as a folder."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def now() -> str:
    """The time in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def gather(results: Sequence[stages.Result], target: Path) -> None:
    """The logs of all stages in one file; of a long one the beginning and the end."""
    with target.open("w") as file:
        for result in results:
            log = WORK / "logs" / f"{result.name}.log"
            file.write(f"\n===== {stages.line_of(result)}\n")
            if result.status != stages.SKIPPED and log.exists():
                text = log.read_text(errors="replace")
                if len(text) > LOG_BYTES:
                    half = LOG_BYTES // 2
                    text = f"{text[:half]}\n[... {len(text) - LOG_BYTES} ...]\n{text[-half:]}"
                file.write(text)


if __name__ == "__main__":
    sys.exit(main())
