"""Work on all devices of a machine: arrays of many items are sharded (`jax.sharding`)."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "devices"

T = TypeVar("T")
Tree = TypeVar("Tree")


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
    """Return arrays that are whole on every device, on the first device alone.

    Otherwise all devices would compute what is computed with them, in separate programs.
    """
    if jax.device_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, jax.device_get(tree))
