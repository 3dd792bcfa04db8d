"""Work on many devices, of one process or of several: `jax.sharding` and `jax.distributed`.

Every process runs the same program on the same numbers. Arrays of many items are spread over all
devices of all processes where that pays; everything else each process does for itself. Only
process 0 touches the files of a run and tells the others what it found.
"""

from __future__ import annotations

import contextvars
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from igspad_jax.errors import InputError

_AXIS = "devices"
_alone = contextvars.ContextVar("_alone", default=False)  # in what a process does by itself

P = ParamSpec("P")
T = TypeVar("T")
Tree = TypeVar("Tree")


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Makes this process one of several that work together; alone if nothing is given.

    Must come before anything is computed. See `jax.distributed.initialize`.

    Args:
        coordinator: host:port at which process 0 can be reached, the same for all processes;
            "auto" where JAX finds out all by itself (Slurm, Open MPI, Kubernetes, Cloud TPUs).
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        InputError: if they do not say enough, or the processes do not find each other.
    """
    given = (coordinator, processes, process)
    if given == (None, None, None):
        return
    if given != ("auto", None, None) and None in given:
        raise InputError(
            "several processes need --coordinator=HOST:PORT, --processes and --process all three, "
            "or --coordinator=auto alone on a cluster that JAX knows"
        )
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"--coordinator={coordinator}: {words}; check the three flags") from error
    agreed(None)  # at once, for communication that begins late may run into limits of time


def process_count() -> int:
    """How many processes work together."""
    # To ask JAX would start its devices, which not every script needs.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and speaks to the user."""
    return process_count() == 1 or jax.process_index() == 0


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (_AXIS,))


def spread(one: Callable[..., T], items: Any, *shared: Any) -> T:
    """`one` of each of m items, every device doing its share of them; to be called under `jit`.

    The last item is repeated until all devices have equally many.

    Args:
        one: from the arrays of one item, and what is shared, to any arrays. It may close over
            arrays, but not over such as lie on all devices already.
        items: [m, ...] arrays.
        shared: arrays that all items need.

    Returns:
        [m, ...] arrays, spread over the devices.
    """

    def share(items: Any, *shared: Any) -> Any:
        def alone(item: Any) -> T:
            return one(item, *shared)

        return jax.vmap(alone)(items) if _all_at_once() else jax.lax.map(alone, items)

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


def _all_at_once() -> bool:
    """Whether a device works on all its items at once."""
    # A CPU gains nothing from that, and one by one each ends when it is done.
    return jax.default_backend() != "cpu"


def everywhere(tree: Tree) -> Tree:
    """The same arrays, whole on every device; to be called under `jit`."""
    mesh = _mesh()
    if mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def brought_home(tree: Tree) -> Tree:
    """Arrays that are whole on every device, on this process's first device alone.

    Else what is computed with them would be computed by all devices, in programs of its own.
    """
    if jax.device_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, jax.device_get(tree))


def on_first(work: Callable[P, T]) -> Callable[P, T]:
    """Makes a function that process 0 calls by itself, to return or raise the same on all.

    All processes must come to it. What it returns must be fit for `pickle`; in it nothing may be
    `spread`.
    """

    @functools.wraps(work)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        if process_count() == 1 or _alone.get():
            return work(*args, **kwargs)
        return _told(_outcome(lambda: work(*args, **kwargs)) if is_first() else None, 0)

    return told


def agreed(value: T) -> T:
    """Process 0's value, on all processes."""
    return on_first(lambda: value)()


def after_first(work: Callable[[], T]) -> T:
    """`work()` on every process; the others begin when process 0 is done, and find its files."""
    if is_first():
        result = work()
        agreed(None)
        return result
    agreed(None)
    return work()


def dealt(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """`work` of every item, each process doing its share; see `on_first` for what it may do."""
    count = process_count()
    if count == 1:
        return [work(item) for item in items]
    own = _outcome(lambda: [work(item) for item in items[jax.process_index() :: count]])
    results: list[Any] = [None] * len(items)
    for process in range(count):
        results[process::count] = _told(own, process)
    return results


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What `work` returns or raises in this process by itself."""
    token = _alone.set(True)
    try:
        return work(), None
    except Exception as error:
        return None, error
    finally:
        _alone.reset(token)


def _told(outcome: tuple[Any, Exception | None] | None, process: int) -> Any:
    """Returns or raises the outcome of one process on all."""
    speaks = jax.process_index() == process
    message = np.frombuffer(pickle.dumps(outcome) if speaks else b"", np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message)), speaks))
    # Each size costs a compilation: the next power of two.
    padded = np.zeros(1 << length.bit_length(), np.uint8)
    padded[: len(message)] = message
    padded = multihost_utils.broadcast_one_to_all(padded, speaks)
    result, error = pickle.loads(padded[:length].tobytes())
    if error is not None:
        raise error
    return result
