"""The choice of an implementation, and all that is specific to Pallas's Mosaic GPU backend.

The kernels themselves are written in `jax.numpy` and `jax.lax` and in the few functions below; a
change of backend, or of its interface from one version of JAX to the next, is a change here.
Pallas is imported where it is used: that takes half a second, and CPUs never need it.
"""


import os
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from igspad_jax.errors import InputError

Implementation = Literal["xla", "mosaic", "interpreted"]

_VARIABLE = "IGSPAD_JAX_COMPOSITOR"  # a user's own choice among `_FOR_USERS`
_FOR_USERS = ("xla", "mosaic")
_HOPPER = 9  # major compute capability; older GPUs lack the copies into shared memory


def resolve(implementation: Implementation | None) -> Implementation:
    """Return the implementation that runs.

    Args:
        implementation: "xla", "mosaic" (the GPU kernels), "interpreted" (the same on a CPU, step
            by step: for tests), or None: the environment variable IGSPAD_JAX_COMPOSITOR
            ("xla" or "mosaic"), else Mosaic on a Hopper GPU or newer, XLA elsewhere.

    Raises:
        ValueError: it is none of these.
        InputError: the variable is neither.
    """
    if implementation is None:
        if wanted := os.environ.get(_VARIABLE):
            if wanted not in _FOR_USERS:
                raise InputError(
                    f"environment variable {_VARIABLE}={wanted}: there is no such compositor; "
                    f"use {' or '.join(_FOR_USERS)}, or unset it to take what suits the device"
                )
            return cast(Implementation, wanted)
        device = jax.devices()[0]
        # "9.0", or "gfx942" on GPUs of another make.
        major = str(getattr(device, "compute_capability", "")).partition(".")[0]
        return "mosaic" if major.isdigit() and int(major) >= _HOPPER else "xla"
    if implementation not in get_args(Implementation):
        known = ", ".join(get_args(Implementation))
        raise ValueError(f"no implementation {implementation!r} of the compositor; use {known}")
    return implementation


def launch(
    body: Callable[..., None],
    outputs: Sequence[tuple[int, ...]],
    *operands: ArrayLike,
    blocks: int,
    buffer: tuple[int, ...],
    interpret: bool,
) -> Sequence[jax.Array]:
    """Runs a kernel body, one warpgroup of 128 threads to a block.

    Args:
        body: takes the block's index, references to operands and outputs, a buffer in shared memory
            and a barrier for each of its slots.
        outputs: shapes of the float32 results.
        *operands: arrays in the GPU's memory.
        blocks: how many.
        buffer: [slots, ...] shape of the buffer.
        interpret: on a CPU.

    Returns:
        The results. What no block writes is undefined.
    """

    from jax.experimental.pallas import mosaic_gpu as plgpu

    def kernel(*refs):
        body(jax.lax.axis_index("block"), *refs)

    return plgpu.kernel(
        kernel,
        out_type=tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in outputs),
        scratch_types=(
            plgpu.SMEM(buffer, jnp.float32),
            plgpu.Barrier(num_barriers=buffer[0]),
        ),
        grid=(blocks,),
        grid_names=("block",),
        interpret=_interpreter() if interpret else None,
    )(*operands)


def _interpreter():
    # Public as plgpu.InterpretGPUParams from JAX 0.12 on only.
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams(detect_races=True)


def fetch(source, slot, barrier) -> None:
    """Begins to copy a block of the GPU's memory to a slot in shared memory.

    Waits until all threads have read what the slot held before.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    plgpu.commit_smem()
    plgpu.copy_gmem_to_smem(source, slot, barrier)


def wait(barrier) -> None:
    """Waits for a slot's copy."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    plgpu.barrier_wait(barrier)
