"""Asking a program in a process of its own, which may fail, crash or hang."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from benchmarking.child import MARK

_SCRIPTS = Path(__file__).resolve().parents[1]
_CHILD = (sys.executable, "-m", "benchmarking.child")


def ask(
    job: Mapping[str, Any] | None, environment: Mapping[str, str], timeout: float
) -> Iterator[dict[str, Any]]:
    """Runs a job; see `benchmarking.child`.

    Args:
        job: what to do; None tells about the machine.
        environment: variables of the process beside this one's.
        timeout: seconds to wait for each answer.

    Yields:
        The answers as they come. Where the process ends badly without a word, or does not answer
        in time and is ended, the last answer is {"error": why}.
    """
    # The child imports this folder's packages, as the script does.
    path = os.pathsep.join([str(_SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **environment}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as complaints,
        subprocess.Popen(
            [*_CHILD, json.dumps(job)],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        failed = False
        try:
            while (line := lines.get(timeout=timeout)) is not None:
                if line.startswith(MARK):
                    answer = json.loads(line.removeprefix(MARK))
                    failed = "error" in answer
                    yield answer
            # The end of its output is not yet the end of the process.
            process.wait(timeout)
        except (queue.Empty, subprocess.TimeoutExpired):
            yield {"error": f"no answer within {timeout:g} s"}
            return
        finally:
            process.kill()  # of no effect on one that has ended
        if process.returncode and not failed:
            yield {"error": f"ended with status {process.returncode}{_last_line(complaints)}"}


def _forward(source: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _last_line(complaints: IO[str]) -> str:
    complaints.seek(0)
    lines = complaints.read().strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""
