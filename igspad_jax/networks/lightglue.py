"""LightGlue (Lindenberger et al., ICCV 2023): which keypoints of two images are the same point.

One network for every layout of weights: sizes are read off the tensors. LighterGlue, which belongs
to XFeat, is a narrow one with a single head. The number of layers is fixed when the weights are
read, in place of the original's early exit, and no keypoint is pruned on the way.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from igspad_jax.errors import InputError
from igspad_jax.networks.layers import gelu
from igspad_jax.networks.tensors import Params, Tensors, check_shapes

_MASKED = np.float32(-1e9)  # a logit that counts for nothing, and finite where all are masked

_Norm = partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class Points(NamedTuple):
    """Keypoints of an image as LightGlue reads them, padded to K rows.

    Attributes:
        positions: [K, 2] x, y from the image's centre, in halves of its longer side.
        descriptors: [K, D].
        valid: [K] whether the row is a keypoint.
    """

    positions: jax.Array | np.ndarray
    descriptors: jax.Array | np.ndarray
    valid: jax.Array | np.ndarray


class Pairing(NamedTuple):
    """Which keypoint of the reference each of the query's K is.

    Attributes:
        index: [K] row of the reference, or -1.
        scores: [K] probability of the pair; 0 where there is none.
    """

    index: jax.Array
    scores: jax.Array


def pad_points(
    points: np.ndarray, descriptors: np.ndarray, size: tuple[int, int], rows: int
) -> Points:
    """Makes keypoints ready for `LightGlue`.

    Only differences of positions enter the network, so any convention for pixel centres will do.

    Args:
        points: [k, 2] x, y in pixels.
        descriptors: [k, D].
        size: width and height of the image in pixels.
        rows: K, at least k.
    """
    positions = (points - np.array(size) / 2.0) / (max(size) / 2.0)
    below = ((0, rows - len(points)), (0, 0))
    return Points(
        np.pad(positions.astype(np.float32), below),
        np.pad(descriptors.astype(np.float32), below),
        np.arange(rows) < len(points),
    )


class LightGlue(nn.Module):
    """Keypoints of two images to pairs of them.

    Attributes:
        width: channels of a keypoint within the network.
        heads: of the attention.
        layers: each of attention within the images and between them.
        threshold: least score of a pair.
    """

    width: int
    heads: int
    layers: int
    threshold: float = 0.1

    @nn.compact
    def __call__(self, query: Points, reference: Points) -> Pairing:
        """Pairs the query's keypoints with the reference's, K of one and any number of the other.

        A pair is each other's best. The network is symmetric in query and reference, except for
        rounding.
        """
        sides = (query, reference)
        x = tuple(side.descriptors for side in sides)
        if query.descriptors.shape[-1] != self.width:
            project = nn.Dense(self.width, name="input")
            x = tuple(project(tokens) for tokens in x)
        frequencies = nn.Dense(
            self.width // self.heads // 2, use_bias=False, precision="highest", name="positions"
        )
        angles = tuple(frequencies(side.positions) for side in sides)
        valid = tuple(side.valid for side in sides)
        layers = nn.scan(
            _Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=self.layers,
        )
        x, _ = layers(self.heads, name="layers")(x, (angles, valid))
        scores = _Assignment(name="assignment")(*x, *valid)
        return _mutual(scores, self.threshold)


class _Layer(nn.Module):
    """Attention within each image, then between the two; the body of a scan."""

    heads: int

    @nn.compact
    def __call__(self, x, sides):
        within = _Within(self.heads, name="within")
        x = tuple(within(*side) for side in zip(x, *sides, strict=True))
        return _Between(self.heads, name="between")(*x, *sides[1]), None


class _Within(nn.Module):
    """Self-attention with rotary positions, [K, C] to the same."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array, valid: jax.Array) -> jax.Array:
        q, k, v = _heads(nn.Dense(3 * x.shape[-1], name="qkv")(x), 3, self.heads)
        message = _attend(_rotate(q, angles), _rotate(k, angles), v, valid)
        return _Update(name="update")(x, message)


class _Between(nn.Module):
    """Cross-attention both ways, [K, C] and [L, C] to the same; queries and keys are one."""

    heads: int

    @nn.compact
    def __call__(self, x0, x1, valid0, valid1):
        project, update = nn.Dense(2 * x0.shape[-1], name="qk_v"), _Update(name="update")
        qk0, v0 = _heads(project(x0), 2, self.heads)
        qk1, v1 = _heads(project(x1), 2, self.heads)
        # Logits are computed again for the other way: on a CPU, faster than reading them back.
        return (
            update(x0, _attend(qk0, qk1, v1, valid1)),
            update(x1, _attend(qk1, qk0, v0, valid0)),
        )


class _Update(nn.Module):
    """Adds to keypoints what they make of their messages, [K, C] and [K, C] to the same."""

    @nn.compact
    def __call__(self, x: jax.Array, message: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        message = nn.Dense(channels, name="out")(message)
        hidden = nn.Dense(2 * channels, name="lin1")(jnp.concatenate([x, message], axis=-1))
        return x + nn.Dense(channels, name="lin2")(gelu(_Norm(name="norm")(hidden)))


class _Assignment(nn.Module):
    """[K, L] logarithms of the probabilities that two keypoints are one point (section 3.2)."""

    @nn.compact
    def __call__(self, x0, x1, valid0, valid1):
        scale = np.float32(x0.shape[-1] ** -0.25)
        project = nn.Dense(x0.shape[-1], name="projection")
        matchable = nn.Dense(1, name="matchability")
        both = valid0[:, None] & valid1
        similarity = jnp.where(both, (scale * project(x0)) @ (scale * project(x1)).T, _MASKED)
        scores = sum(jax.nn.log_softmax(similarity, axis=axis) for axis in (0, 1))
        scores += jax.nn.log_sigmoid(matchable(x0)) + jax.nn.log_sigmoid(matchable(x1)).T
        return jnp.where(both, scores, -np.inf)


def _mutual(scores: jax.Array, threshold: float) -> Pairing:
    """The pairs of [K, L] logarithmic scores that are each other's best and above a threshold."""
    best, back = scores.argmax(axis=1), scores.argmax(axis=0)
    probability = jnp.exp(scores.max(axis=1))
    paired = (back[best] == jnp.arange(len(best))) & (probability > threshold)
    return Pairing(jnp.where(paired, best, -1), jnp.where(paired, probability, 0.0))


def _heads(x: jax.Array, parts: int, heads: int) -> jax.Array:
    """[K, parts * heads * D] to [parts, heads, K, D]."""
    return x.reshape(len(x), parts, heads, -1).transpose(1, 2, 0, 3)


def _rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turns neighbouring channels of [H, K, D], taken as points in a plane, by [K, D/2] angles."""
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """[K, H * D] messages to [H, K, D] queries from those of [H, L, D] keys that are valid."""

    def of_head(qkv):
        q, k, v = qkv
        logits = jnp.where(valid, (q * np.float32(q.shape[-1] ** -0.5)) @ k.T, _MASKED)
        weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights @ v / weights.sum(axis=-1, keepdims=True)

    # One head at a time fits a processor's cache.
    return jax.lax.map(of_head, (q, k, v)).swapaxes(0, 1).reshape(q.shape[1], -1)


def pair_with_many(
    network: LightGlue, params: Params, query: Points, references: Points
) -> Pairing:
    """Pairs the keypoints of one image with those of R images, [R, ...]; gives [R, K]."""
    pair: Any = partial(network.apply, {"params": params})
    return jax.vmap(pair, in_axes=(None, 0))(query, references)


_NAMES = {  # the original's, Hugging Face's
    "input": ("input_proj", "input_projection"),
    "positions": ("posenc.Wr", "positional_encoder.projector"),
    "layers": ("transformers", "transformer_layers"),
    "within.out": ("self_attn.out_proj", "self_attention.o_proj"),
    "within.lin1": ("self_attn.ffn.0", "self_mlp.fc1"),
    "within.norm": ("self_attn.ffn.1", "self_mlp.layer_norm"),
    "within.lin2": ("self_attn.ffn.3", "self_mlp.fc2"),
    "between.out": ("cross_attn.to_out", "cross_attention.o_proj"),
    "between.lin1": ("cross_attn.ffn.0", "cross_mlp.fc1"),
    "between.norm": ("cross_attn.ffn.1", "cross_mlp.layer_norm"),
    "between.lin2": ("cross_attn.ffn.3", "cross_mlp.fc2"),
    "assignments": ("log_assignment", "match_assignment_layers"),
    "projection": ("final_proj", "final_projection"),
}


def read_lightglue(tensors: Tensors, layers: int | None = None) -> tuple[LightGlue, Params]:
    """Builds the network from weights, under the original's names or those of Hugging Face.

    Left out are what only an adaptive depth needs (`token_confidence`, `confidence_thresholds`),
    and the keypoint network in a file with LighterGlue (`extractor`) or with Hugging Face's
    LightGlue (`keypoint_detector`).

    Args:
        tensors: the weights; this finishes them.
        layers: how many of the layers to keep, or None for all. Each has an assignment of its own,
            trained to follow it.

    Raises:
        InputError: other tensors than LightGlue's, or fewer layers than asked for.
    """
    tensors.drop_under("extractor", "keypoint_detector")
    if "matcher.posenc.Wr.weight" in tensors:
        tensors = tensors.under("matcher")
    tensors.drop_under("token_confidence")
    tensors.drop("confidence_thresholds")
    hugging_face = f"{_NAMES['positions'][1]}.weight" in tensors
    names = {ours: theirs[hugging_face] for ours, theirs in _NAMES.items()}
    depth = 1
    while f"{names['assignments']}.{depth}.matchability.weight" in tensors:
        depth += 1
    used = depth if layers is None else layers
    if not 1 <= used <= depth:
        raise InputError(f"LightGlue: {used} layers asked for; ask for 1 to {depth}")

    read = _hugging_face_attention if hugging_face else _original_attention
    blocks, assignments = [], []
    for i in range(depth):
        layer = tensors.under(f"{names['layers']}.{i}")
        attention = read(layer)
        updates = {part: {"update": _update(layer, names, part)} for part in attention}
        blocks.append({part: attention[part] | updates[part] for part in attention})
        assignment = tensors.under(f"{names['assignments']}.{i}")
        projection = assignment.linear(names["projection"])
        matchability = assignment.linear("matchability")
        assignments.append({"projection": projection, "matchability": matchability})
    params = {"positions": tensors.linear(names["positions"], bias=False)}
    width = descriptor = len(assignments[0]["projection"]["kernel"])
    if f"{names['input']}.weight" in tensors:
        params["input"] = tensors.linear(names["input"])
        descriptor = len(params["input"]["kernel"])
    tensors.finish()

    params["layers"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks[:used])
    params["assignment"] = assignments[used - 1]
    heads = width // (2 * params["positions"]["kernel"].shape[1])
    network = LightGlue(width, heads, used)
    points = pad_points(np.zeros((1, 2)), np.zeros((1, descriptor)), (1, 1), 1)
    expected = jax.eval_shape(network.init, jax.random.key(0), points, points)["params"]
    check_shapes(params, expected, "LightGlue")
    return network, params


def _original_attention(tensors: Tensors) -> dict[str, Params]:
    # The outputs come in the order (head, channel, one of q, k and v).
    fused = tensors.linear("self_attn.Wqkv")
    qkv = {name: _joined(*(leaf[..., i::3] for i in range(3))) for name, leaf in fused.items()}
    qk, v = tensors.linear("cross_attn.to_qk"), tensors.linear("cross_attn.to_v")
    return {"within": {"qkv": qkv}, "between": {"qk_v": jax.tree.map(_joined, qk, v)}}


def _hugging_face_attention(tensors: Tensors) -> dict[str, Params]:
    within = [tensors.linear(f"self_attention.{name}_proj") for name in "qkv"]
    q, k, v = (tensors.linear(f"cross_attention.{name}_proj") for name in "qkv")
    if not jax.tree.all(jax.tree.map(np.array_equal, q, k)):
        raise InputError(
            "LightGlue: tensors cross_attention.q_proj and .k_proj that differ; LightGlue has one "
            "for both, so give its weights"
        )
    qkv, qk_v = jax.tree.map(_joined, *within), jax.tree.map(_joined, q, v)
    return {"within": {"qkv": qkv}, "between": {"qk_v": qk_v}}


def _joined(*leaves: np.ndarray) -> np.ndarray:
    # Until the weights are finished a missing tensor is a single zero.
    return np.concatenate(np.broadcast_arrays(*leaves), axis=-1)


def _update(tensors: Tensors, names: dict[str, str], part: str) -> Params:
    params = {name: tensors.linear(names[f"{part}.{name}"]) for name in ("out", "lin1", "lin2")}
    return params | {"norm": tensors.norm(names[f"{part}.norm"])}
