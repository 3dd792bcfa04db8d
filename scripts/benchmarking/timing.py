"""Timing one part of one program."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

_LEAST_REPEATS = 2
_ENOUGH_SECONDS = 20.0  # of one part; slower ones are repeated less often


def _nothing(_: Any) -> dict:
    return {}


class Prepared(NamedTuple):
    """A part of a program, ready to run.

    Attributes:
        run: does the work once, waits for the device, and returns the result.
        checked: named arrays of a result, to be compared with the XLA path's.
        figures: further numbers of a result, for the record.
        per: how often one `run` does what is to be timed; steps of a training.
        compile_s: seconds that compiling took; None where it happens in the first `run`.
        compiled_bytes: what the compiled program says that it needs, where it says so.
    """

    run: Callable[[], Any]
    checked: Callable[[Any], Mapping[str, np.ndarray]] = _nothing
    figures: Callable[[Any], Mapping[str, Any]] = _nothing
    per: int = 1
    compile_s: float | None = None
    compiled_bytes: int | None = None


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and interquartile range."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "least": float(min(values)), "spread": float(high - low)}


def measure(
    prepare: Callable[[], Prepared], peak_bytes: Callable[[], int | None], repeats: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Prepares a part, runs it once, and times further runs.

    Args:
        prepare: makes the part.
        peak_bytes: the device's largest memory in use up to now; None where it is not told.
        repeats: timed runs, fewer where they take long.

    Returns:
        The record: wall_ms and cpu_ms (median, least, spread), repeats, compile_s, memory_bytes and
        memory_from ("device" or "compiled"), and the part's own figures. And what is to be checked.
    """
    before = peak_bytes()
    prepared = prepare()
    start = time.perf_counter()
    result = prepared.run()
    first = time.perf_counter() - start
    checked, figures = dict(prepared.checked(result)), dict(prepared.figures(result))
    del result
    wall, cpu = [], []
    while len(wall) < _LEAST_REPEATS or (len(wall) < repeats and sum(wall) < _ENOUGH_SECONDS):
        cpu_start, start = time.process_time(), time.perf_counter()
        prepared.run()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - start)
    compile_s = prepared.compile_s
    if compile_s is None:
        compile_s = max(first - float(np.median(wall)), 0.0)
    record = {
        "wall_ms": summary([1e3 * seconds / prepared.per for seconds in wall]),
        "cpu_ms": summary([1e3 * seconds / prepared.per for seconds in cpu]),
        "repeats": len(wall),
        "compile_s": compile_s,
        **_memory(before, peak_bytes(), prepared.compiled_bytes),
        **figures,
    }
    return record, checked


def _memory(before: int | None, after: int | None, compiled: int | None) -> dict[str, Any]:
    # A process's peak never falls: it speaks of this part only if this part raised it.
    if after is not None and (before is None or after > before):
        return {"memory_bytes": after, "memory_from": "device"}
    return {"memory_bytes": compiled, "memory_from": compiled and "compiled"}
