"""From the named tensors of a PyTorch checkpoint to the parameters of a port."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from igspad_jax.errors import InputError

Params = dict[str, Any]

_LISTED = 20  # names in a message; a checkpoint of another network may lack hundreds


class Tensors:
    """Named tensors that are taken one by one; what is missing or left over is an error at the end.

    Attributes:
        source: where the tensors came from, for messages.

    A port builds its parameters from these, then calls `finish`. Until then a missing tensor
    reads as zeros, so that the error can list all of them.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], source: str):
        """Wrap tensors; `source` is where they came from, for messages."""
        self._tensors = tensors
        self.source = source
        self._prefix = ""
        self._taken: set[str] = set()
        self._missing: list[str] = []

    def under(self, prefix: str) -> "Tensors":
        """The tensors whose names begin with `prefix` and a dot, named by what follows."""
        inner = Tensors(self._tensors, self.source)
        inner._prefix = f"{self._prefix}{prefix}."
        inner._taken, inner._missing = self._taken, self._missing
        return inner

    def renamed(self, rename: Callable[[str], str]) -> "Tensors":
        """The same tensors by other names, none of them taken yet."""
        return Tensors({rename(name): t for name, t in self._tensors.items()}, self.source)

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return self._prefix + name in self._tensors

    def take(self, name: str, ndim: int = 1) -> np.ndarray:
        """The tensor as float32; `ndim` is that of the zeros read where it is missing."""
        name = self._prefix + name
        if name not in self._tensors:
            self._missing.append(name)
            return np.zeros((1,) * ndim, np.float32)
        self._taken.add(name)
        return np.asarray(self._tensors[name], np.float32)

    def drop(self, *names: str) -> None:
        """Count tensors as used that inference does not need; they may be missing."""
        self._taken.update(self._prefix + name for name in names)

    def drop_under(self, *prefixes: str) -> None:
        """`drop` for all tensors whose names begin with a prefix and a dot."""
        starts = tuple(f"{self._prefix}{prefix}." for prefix in prefixes)
        self._taken.update(name for name in self._tensors if name.startswith(starts))

    def linear(self, name: str, *, bias: bool = True) -> Params:
        """A dense layer: `kernel` [in, out] and, if asked for, `bias` [out]."""
        params = {"kernel": self.take(f"{name}.weight", 2).T}
        return params | ({"bias": self.take(f"{name}.bias")} if bias else {})

    def conv(self, name: str, *, bias: bool = True) -> Params:
        """A 2-D convolution: `kernel` [height, width, in, out] and, if asked for, `bias` [out]."""
        params = {"kernel": self.take(f"{name}.weight", 4).transpose(2, 3, 1, 0)}
        return params | ({"bias": self.take(f"{name}.bias")} if bias else {})

    def norm(self, name: str) -> Params:
        """A layer norm: `scale` and `bias`."""
        return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

    def conv_with_norm(
        self, conv: str, norm: str, *, affine: bool = True, epsilon: float = 1e-5
    ) -> Params:
        """A 2-D convolution without bias and the batch norm after it, as one: see `conv`."""
        kernel = self.conv(conv, bias=False)["kernel"]
        after = self._batch_norm(norm, affine=affine, epsilon=epsilon)
        return {"kernel": kernel * after["scale"], "bias": after["bias"]}

    def _batch_norm(self, name: str, *, affine: bool, epsilon: float) -> Params:
        """A batch norm with its running statistics as one affine map: `scale` and `bias`."""
        mean, variance = self.take(f"{name}.running_mean"), self.take(f"{name}.running_var")
        self.drop(f"{name}.num_batches_tracked")
        scale = 1.0 / np.sqrt(variance + epsilon)
        if not affine:
            return {"scale": scale, "bias": -mean * scale}
        scale = scale * self.take(f"{name}.weight")
        return {"scale": scale, "bias": self.take(f"{name}.bias") - mean * scale}

    def finish(self) -> None:
        """Check that all tensors were used and none was missing.

        Raises:
            InputError: tensors were missing, or were never taken; it lists them.
        """
        unused = [name for name in self._tensors if name not in self._taken]
        troubles = [
            f"{len(names)} {what}: {', '.join(names[:_LISTED])}"
            + (", ..." if len(names) > _LISTED else "")
            for what, names in (("missing", self._missing), ("unused", unused))
            if names
        ]
        if troubles:
            raise InputError(
                f"{self.source}: not the tensors of this network; {'; '.join(troubles)}; "
                "give the weights of the selected network"
            )


def as_dense(conv: Params) -> Params:
    """A 1x1 convolution as a dense layer."""
    return conv | {"kernel": conv["kernel"][0, 0]}


def check_image_network(network: nn.Module, params: Params, side: int, source: str) -> None:
    """`check_shapes` with what a network makes by itself for an image of `side` x `side` pixels."""
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    expected = jax.eval_shape(network.init, jax.random.key(0), images)
    check_shapes(params, expected["params"], source)


def check_shapes(params: Params, expected: Params, source: str) -> None:
    """Compares the shapes of parameters with those that the network makes by itself.

    Args:
        params: the parameters.
        expected: parameters, or shapes of parameters, of the same structure.
        source: where the parameters came from, for messages.

    Raises:
        InputError: shapes differ; it lists them.
    """
    found, wanted = (
        {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in map(
            lambda tree: jax.tree_util.tree_flatten_with_path(tree)[0], (params, expected)
        )
    )
    if wrong := [
        f"{name} {found.get(name)} for {wanted.get(name)}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]:
        raise InputError(
            f"{source}: tensors of another size than the network's: {', '.join(wrong[:_LISTED])}; "
            "give the weights of the selected network"
        )
