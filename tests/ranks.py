"""`c2f train` in two processes as torchrun starts them, forked from one that has imported all.

Importing takes many times as long as these runs. The process is one of its own, without threads.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any


class Ranks:
    """Starts runs one after the other.

    Args:
        folder: their working folder, from which they import, too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[list[int], str]:
        """Exit status of both, and what they wrote to stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([arguments, environment]), file=self._process.stdin, flush=True)
        statuses = json.loads(self._process.stdout.readline())
        return statuses, (self._folder / "stderr").read_text()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._process.kill()  # nothing is left to do, and an orderly end takes long
        self._process.communicate()


def _train(rank: int, port: int, arguments: list[str], environment: dict[str, str]) -> Any:
    from c2fcore.cli import main

    os.environ.update(
        environment, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        GROUP_RANK="0", MASTER_ADDR="localhost", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    said = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    return main(["train", *arguments, "--trainer.devices=2", "--trainer.strategy=ddp"])


def _forked(*job: Any) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = _train(*job)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import c2fcore.train.command  # noqa: F401

    for line in sys.stdin:
        Path("stderr").unlink(missing_ok=True)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            chosen = free.getsockname()[1]
        children = [_forked(rank, chosen, *json.loads(line)) for rank in range(2)]
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ended), flush=True)
