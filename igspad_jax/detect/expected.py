"""What the object's scene itself gets wrong, learnt from the normal images.

A scene fits some places less well than others: highlights that move faster than its harmonics can
follow, edges, crevices. There a normal image differs from its render as much as a faint defect
does elsewhere. The anomaly maps of the training images tell where, and seen from which side: each
pixel's value is handed back to the Gaussians that make the pixel, in proportion to their weights.
For a test image the sums of the training views nearest in viewing direction are averaged, and
rendered at its pose as the anomaly to expect there.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import Camera, view_directions
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import render_features
from igspad_jax.scene import Gaussians

_LEAST_WEIGHT = 1e-3  # pixels; a Gaussian seen less than this has no mean of its own
_SHARPNESS = 0.05  # cosine below the nearest view's at which a view's weight falls to 1/e
_PRIOR = 0.5  # pixels of the mean over all views that count besides


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


@dataclasses.dataclass(frozen=True, eq=False)
class ExpectedAnomaly:
    """The anomaly that a normal image shows, as a field on the object that depends on direction.

    Attributes:
        sums: float32 [views, N, 2] of each training view: what its pixels hand back to each
            Gaussian, weight times score and weight.
        directions: float32 [views, 3] unit vectors from the object's centre to the cameras.
        typical: mean score over all pixels of the training images.
    """

    sums: np.ndarray
    directions: np.ndarray
    typical: float

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """[N] mean score of the pixels that each Gaussian makes, over all views."""
        total = self.sums.sum(axis=0, dtype=np.float64)
        return (total[:, 0] / np.maximum(total[:, 1], _LEAST_WEIGHT)).astype(np.float32)

    @classmethod
    def learn(
        cls, normal_object: NormalObject, views: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Self:
        """Learn from the viewmats [4, 4] of normal images and their anomaly maps [H, W]."""
        sums, viewmats, means = [], [], []
        for viewmat, scores in views:
            camera = normal_object.camera(viewmat)

            def handed_back(slots, camera=camera, scores=scores):
                return _handed_back(
                    normal_object.gaussians, camera, jnp.asarray(scores), capacity=slots
                )

            result = normal_object.capacity.run(handed_back, lambda result: result[1])
            sums.append(np.asarray(result[0]))
            viewmats.append(viewmat)
            means.append(float(scores.mean()))
        directions = view_directions(np.stack(viewmats), np.asarray(normal_object.centre))
        return cls(np.stack(sums), directions.astype(np.float32), float(np.mean(means)))

    def values(self, direction: np.ndarray, nearest: int) -> np.ndarray:
        """[N] mean score of the pixels that each Gaussian makes, seen from a direction.

        Args:
            direction: [3] unit vector from the object's centre to the camera.
            nearest: training views to average over; 0 takes all, whatever the direction.
        """
        if not nearest:
            return self.mean
        cosines = self.directions @ direction
        views = np.argsort(-cosines, kind="stable")[:nearest]
        weights = np.exp((cosines[views] - cosines[views[0]]) / _SHARPNESS).astype(np.float32)
        sums = np.einsum("v,vnk->nk", weights, self.sums[views])
        return (sums[:, 0] + _PRIOR * self.mean) / (sums[:, 1] + _PRIOR)

    def at(self, normal_object: NormalObject, viewmat: np.ndarray, nearest: int) -> np.ndarray:
        """[H, W] the anomaly to expect of an image at a [4, 4] pose."""
        camera = normal_object.camera(viewmat)
        direction = view_directions(viewmat[None], np.asarray(normal_object.centre))[0]
        values = jnp.asarray(self.values(direction, nearest))

        def rendered(slots):
            return _rendered(normal_object.gaussians, camera, values, capacity=slots)

        return np.asarray(normal_object.capacity.run(rendered, lambda result: result[1])[0])
