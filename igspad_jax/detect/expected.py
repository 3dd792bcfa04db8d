"""What the scene itself gets wrong, learnt from the normal images.

A scene fits some places less well than others: highlights that move faster than its harmonics can
follow, edges, crevices. There a normal image differs from its render as much as a faint defect
does elsewhere. The anomaly maps of the training images tell where: each pixel's value is handed
back to the Gaussians that make the pixel, in proportion to their weights, and the means are
rendered at the pose of a test image as the anomaly to expect there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import Camera
from igspad_jax.render import Capacity, render_features
from igspad_jax.scene import Gaussians

_LEAST_WEIGHT = 1e-3  # pixels; a Gaussian seen less than this has no mean of its own


@functools.partial(jax.jit, static_argnames="capacity")
def _handed_back(gaussians: Gaussians, camera: Camera, scores: jax.Array, *, capacity: int):
    """[N, 2] sums over the pixels of weight times score and of weight, and the slots asked for."""

    def composited(features):
        return render_features(gaussians, camera, features, capacity=capacity)

    _, transpose, pairs = jax.vjp(composited, jnp.zeros((len(gaussians), 2)), has_aux=True)
    (sums,) = transpose(jnp.stack([scores, jnp.ones_like(scores)], axis=-1))
    return sums, pairs


@functools.partial(jax.jit, static_argnames="capacity")
def _rendered(gaussians: Gaussians, camera: Camera, values: jax.Array, *, capacity: int):
    image, pairs = render_features(gaussians, camera, values[:, None], capacity=capacity)
    return image[..., 0], pairs


class ExpectedAnomaly:
    """The anomaly that a normal image shows, as a field on the scene.

    Attributes:
        gaussians: the scene.
        values: [N] mean score of the pixels that each Gaussian makes.
        typical: mean score over all pixels of the training images.
    """

    def __init__(self, gaussians: Gaussians, values: jax.Array, typical: float, capacity: Capacity):
        self.gaussians = gaussians
        self.values = values
        self.typical = typical
        self._capacity = capacity

    @classmethod
    def learn(
        cls,
        gaussians: Gaussians,
        views: Iterable[tuple[Camera, np.ndarray]],
        capacity: Capacity,
    ) -> ExpectedAnomaly:
        """Learns from the cameras of normal images and their anomaly maps [H, W]."""
        sums = np.zeros((len(gaussians), 2))
        means = []
        for camera, scores in views:

            def handed_back(slots, camera=camera, scores=scores):
                return _handed_back(gaussians, camera, jnp.asarray(scores), capacity=slots)

            sums += np.asarray(capacity.run(handed_back, lambda result: result[1])[0])
            means.append(float(scores.mean()))
        values = sums[:, 0] / np.maximum(sums[:, 1], _LEAST_WEIGHT)
        typical = float(np.mean(means))
        return cls(gaussians, jnp.asarray(values, jnp.float32), typical, capacity)

    def discount(self, camera: Camera, scores: np.ndarray, scale: float) -> np.ndarray:
        """Scores [H, W] divided by 1 + E / (scale * typical), E the anomaly to expect.

        Scores stay as they are where nothing is expected, so the map keeps the units of
        equation 5; a smaller `scale` trusts the expectation more.
        """

        def rendered(slots):
            return _rendered(self.gaussians, camera, self.values, capacity=slots)

        expected = np.asarray(self._capacity.run(rendered, lambda result: result[1])[0])
        return scores / (1.0 + expected / (scale * max(self.typical, 1e-12)))
