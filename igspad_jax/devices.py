"""Work on many devices, of one process or of several: `jax.sharding` and `jax.distributed`.

Every process runs the same program on the same numbers. Arrays of many items are sharded over all
devices of all processes where that pays; everything else each process does for itself. Only
process 0 reads and writes the files of a run, and broadcasts what it read to the others.
"""

from __future__ import annotations

import contextvars
import functools
import pickle
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from igspad_jax.errors import InputError

_AXIS = "devices"
_alone = contextvars.ContextVar("_alone", default=False)  # in work that one process does by itself

P = ParamSpec("P")
T = TypeVar("T")
Tree = TypeVar("Tree")


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this process one of several that work together; alone if nothing is given.

    Must be called before anything is computed. See `jax.distributed.initialize`.

    Args:
        coordinator: host:port at which process 0 can be reached, the same for all processes;
            "auto" where JAX detects all three (Slurm, Open MPI, Kubernetes, Cloud TPUs).
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        InputError: if arguments are missing, or the processes cannot connect.
    """
    given = (coordinator, processes, process)
    if given == (None, None, None):
        return
    if given != ("auto", None, None) and None in given:
        raise InputError(
            "several processes need --coordinator=HOST:PORT, --processes and --process all three, "
            "or --coordinator=auto alone on a cluster that JAX supports"
        )
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"--coordinator={coordinator}: {words}; check the three flags") from error
    from_first_process(None)  # at once: communication that begins late may time out


def process_count() -> int:
    """How many processes work together."""
    # To ask JAX would start its devices, which not every script needs.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and prints."""
    return process_count() == 1 or jax.process_index() == 0


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (_AXIS,))


def batching_pays() -> bool:
    """Whether a device works faster on many items together.

    A CPU does not: it takes them one at a time, so that each ends when it is done, in less memory.
    """
    return jax.default_backend() != "cpu"


def batch_size(most: int) -> int:
    """Return how many items to give a device together: `most`, or 1 where batching does not pay."""
    return most if batching_pays() else 1


def map_images(function: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Apply a function of a batch of images: to all together, or one by one on a CPU.

    Args:
        function: from [b, ...] images to [b, ...] results.
        images: [B, ...].

    Returns:
        [B, ...] results.
    """
    if batching_pays():
        return function(images)
    return jax.lax.map(lambda image: function(image[None])[0], images)


def sharded_map(one: Callable[..., T], items: Any, *shared: Any) -> T:
    """Apply `one` to each of m items, shared out among all devices; to be called under `jit`.

    The last item is repeated until all devices have equally many.

    Args:
        one: from the arrays of one item, and what is shared, to any arrays. It may close over
            arrays, but not over such as lie on all devices already.
        items: [m, ...] arrays.
        shared: arrays that all items need.

    Returns:
        [m, ...] arrays, sharded over the devices.
    """

    def share(items: Any, *shared: Any) -> Any:
        def alone(item: Any) -> T:
            return one(item, *shared)

        return jax.vmap(alone)(items) if batching_pays() else jax.lax.map(alone, items)

    mesh = _mesh()
    if mesh.size == 1:
        return share(items, *shared)
    count = len(jax.tree.leaves(items)[0])
    missing = -count % mesh.size

    def filled(leaf):
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    split, whole = PartitionSpec(_AXIS), PartitionSpec()
    specs = (split, *(whole for _ in shared))
    sharded = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    results = sharded(jax.tree.map(filled, items), *shared)
    return jax.tree.map(lambda leaf: leaf[:count], results)


def replicated(tree: Tree) -> Tree:
    """Return the same arrays, whole on every device; to be called under `jit`."""
    mesh = _mesh()
    if mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def to_first_device(tree: Tree) -> Tree:
    """Return arrays that are whole on every device, on this process's first device alone.

    Otherwise all devices would compute what is computed with them, in separate programs.
    """
    if jax.device_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, jax.device_get(tree))


def on_first(work: Callable[P, T]) -> Callable[P, T]:
    """Make a function run on process 0 alone, and return or raise the same on all processes.

    All processes must call it. What it returns must be fit for `pickle`; it must not call
    `sharded_map`.
    """

    @functools.wraps(work)
    def on_all(*args: P.args, **kwargs: P.kwargs) -> T:
        if process_count() == 1 or _alone.get():
            return work(*args, **kwargs)
        return _broadcast(_outcome(lambda: work(*args, **kwargs)) if is_first() else None, 0)

    return on_all


def from_first_process(value: T) -> T:
    """Return process 0's value, on all processes."""
    return on_first(lambda: value)()


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what `work` returns or raises in this process by itself."""
    token = _alone.set(True)
    try:
        return work(), None
    except Exception as error:
        return None, error
    finally:
        _alone.reset(token)


def _broadcast(outcome: tuple[Any, Exception | None] | None, process: int) -> Any:
    """Return or raise the outcome of one process on all."""
    is_source = jax.process_index() == process
    message = np.frombuffer(pickle.dumps(outcome) if is_source else b"", np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message)), is_source))
    # Each size costs a compilation: the next power of two.
    padded = np.zeros(1 << length.bit_length(), np.uint8)
    padded[: len(message)] = message
    padded = multihost_utils.broadcast_one_to_all(padded, is_source)
    result, error = pickle.loads(padded[:length].tobytes())
    if error is not None:
        raise error
    return result
