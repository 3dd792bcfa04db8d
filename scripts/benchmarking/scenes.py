"""What every program draws: one scene, its cameras, and the gradient of a loss by the images."""

from typing import NamedTuple

import numpy as np

from igspad_jax.cameras import intrinsics_from_angle, look_at
from igspad_jax.scene import Gaussians
from igspad_jax.scene.harmonics import C0

RADIUS = 1.0  # of the object, which lies about the origin
_DISTANCE = 3.5  # of the cameras from it
_ANGLE = 0.691  # horizontal field of view in radians
_GOLDEN = 2.4  # radians from one camera to the next
_UP = np.array([0.0, 0.0, 1.0])
# Programs hold alpha at different values, all above this opacity's 0.95, and so never here.
_LARGEST_LOGIT = 3.0


class Scene(NamedTuple):
    """A scene before B cameras; NumPy arrays, so that nothing here touches a device.

    Attributes:
        gaussians: float32, spherical harmonics of degree 0.
        viewmats: float32 [B, 4, 4].
        K: float32 [3, 3], the principal point in the middle.
        size: width and height of the images in pixels.
        background: float32 [3] RGB.
        weights: float32 [size, size, 3] gradient of the loss by each image.
    """

    gaussians: Gaussians
    viewmats: np.ndarray
    K: np.ndarray
    size: int
    background: np.ndarray
    weights: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """[B, size, size, 3] images in [0, 1] to be fitted: noise, which is no less work."""
        image = np.clip(0.5 + 0.2 * self.weights, 0.0, 1.0)
        return np.repeat(image[None], len(self.viewmats), axis=0)


def with_degree(scene: Scene, degree: int) -> Scene:
    """The scene with harmonics of a higher degree, which are zero but cost what others do."""
    more = (degree + 1) ** 2 - scene.gaussians.sh.shape[1]
    sh = np.pad(np.asarray(scene.gaussians.sh), ((0, 0), (0, more), (0, 0)))
    return scene._replace(gaussians=scene.gaussians.replace(sh=sh))


def cameras(count: int, first: float = -0.86) -> np.ndarray:
    """[count, 4, 4] viewmats all around the object, which each of them sees whole.

    Args:
        count: how many.
        first: azimuth of the first one in radians.
    """
    heights = 0.39 + 0.5 * np.sin(1.7 * np.arange(count))
    azimuths = first + _GOLDEN * np.arange(count)
    ring = np.sqrt(1.0 - heights**2)
    eyes = np.stack([ring * np.cos(azimuths), ring * np.sin(azimuths), heights], axis=1)
    return np.stack([look_at(_DISTANCE * eye, np.zeros(3), _UP) for eye in eyes])


def make_scene(count: int, size: int, batch: int, seed: int) -> Scene:
    """Thin splats that lie in the surface of a bumpy ball, like those of a trained object.

    Standard deviations are 1 to 3 pixels whatever the images' size, so that the work grows with the
    number of splats.

    Args:
        count: Gaussians.
        size: width and height of the images in pixels.
        batch: cameras.
        seed: of the Gaussians.
    """
    rng = np.random.default_rng(seed)
    K = intrinsics_from_angle(_ANGLE, size, size)
    viewmats = cameras(batch)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    means = normals * (0.85 + 0.15 * np.sin(4.0 * normals).prod(axis=1, keepdims=True))
    depths = means @ viewmats[0, 2, :3] + viewmats[0, 2, 3]
    pixels = rng.uniform(1.0, 3.0, (count, 3)) * [1.0, 1.0, 0.2]
    # The rotation that takes z to the normal: the thin axis.
    quats = np.column_stack([1.0 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(count)])
    # A pattern that matching can hold on to, and no two splats alike.
    pattern = 0.25 * np.sin(7.0 * normals + 3.0 * normals[:, [1, 2, 0]] ** 2)
    noise = rng.normal(0.0, 0.08, (count, 3))
    arrays = (
        means,
        np.log(pixels * (depths / K[0, 0])[:, None]),
        quats,
        np.minimum(rng.normal(1.0, 1.5, count), _LARGEST_LOGIT),
        ((pattern + noise) / C0)[:, None],
    )
    return Scene(
        gaussians=Gaussians(*(np.asarray(array, np.float32) for array in arrays)),  # type: ignore
        viewmats=viewmats.astype(np.float32),
        K=K.astype(np.float32),
        size=size,
        background=np.ones(3, np.float32),
        weights=np.random.default_rng(1).standard_normal((size, size, 3), np.float32),
    )
