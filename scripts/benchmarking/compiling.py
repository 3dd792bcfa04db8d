"""JAX functions compiled ahead, with what that took, and what the device says of its memory."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarking.timing import Prepared


class Compiled(NamedTuple):
    """A function and its arguments.

    Attributes:
        run: calls it with them and waits for the device.
        seconds: that compiling took.
        bytes: arguments, results and temporaries of the compiled program; None if it is not told.
    """

    run: Callable[[], Any]
    seconds: float
    bytes: int | None

    def prepared(
        self, checked: Callable[[Any], Mapping[str, np.ndarray]], per: int = 1
    ) -> Prepared:
        """The same as a part of a program."""
        return Prepared(
            self.run, checked, per=per, compile_s=self.seconds, compiled_bytes=self.bytes
        )


def compiled(function: Any, *arguments: Any, **static: Any) -> Compiled:
    """Compiles a function under `jax.jit` for its arguments."""
    start = time.perf_counter()
    program = function.lower(*arguments, **static).compile()
    seconds = time.perf_counter() - start
    needs = program.memory_analysis()
    size = needs and (
        needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes
    )
    return Compiled(lambda: jax.block_until_ready(program(*arguments)), seconds, size or None)


def device_peak() -> int | None:
    """The first device's largest memory in use up to now; None where it does not tell."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
