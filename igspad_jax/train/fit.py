"""From posed normal images to the normal object."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from igspad_jax.cameras import pixels_of
from igspad_jax.data import LoadedViews
from igspad_jax.errors import InputError
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity, CapacityError
from igspad_jax.scene import Gaussians
from igspad_jax.scene.initialise import initial_gaussians, silhouettes
from igspad_jax.scene.volume import common_volume, looked_at, without_outliers
from igspad_jax.settings import TrainConfig
from igspad_jax.train.checkpoints import Checkpoints
from igspad_jax.train.trainer import Views, initial_state, quality, train

# Share of the views that must show a point, and of their pixels for a background to be in them.
_SHOWN = 0.5


class Fitted(NamedTuple):
    """A normal object, and how it came about.

    Attributes:
        normal_object: the object.
        origin: what its Gaussians began as, in words.
        history: measurements of the training, see `igspad_jax.train.trainer.train`.
    """

    normal_object: NormalObject
    origin: str
    history: list[dict]


def fit(
    views: LoadedViews,
    config: TrainConfig,
    *,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    held_out: LoadedViews | None = None,
    cloud: tuple[np.ndarray, np.ndarray] | None = None,
    checkpoints: Path | None = None,
    name: str = "object",
) -> Fitted:
    """Fit a normal object to posed normal images.

    Args:
        views: the images.
        config: see `TrainConfig`.
        background: RGB in [0, 1] behind the object.
        held_out: images to measure quality on.
        cloud: points [P, 3] and colours [P, 3] to start from.
        checkpoints: a folder for them; a training that was killed goes on from the last one.
        name: what is fitted, for logs and the progress bar.

    Raises:
        InputError: for views that look at no common point, or a training that diverges.
    """
    height, width = views.images.shape[1:3]
    cameras = views.viewmats, views.K, width, height
    ball = None
    if cloud is not None and silhouettes(views.images, np.asarray(background)) is None:
        cloud = without_outliers(*_within(*cloud, views))
        ball = looked_at(cloud[0], *cameras)
    _, radius = ball or common_volume(*cameras)
    start, origin = initial_gaussians(
        views.images,
        views.viewmats,
        views.K,
        np.asarray(background),
        count=config.count,
        sh_degree=config.sh_degree,
        seed=config.seed,
        cloud=cloud,
        ball=ball,
        surroundings=views.shown is None or views.shown.mean() > _SHOWN,
    )
    logging.info("%s: starting from %s", name, origin)
    if config.batch < jax.device_count():
        logging.warning(
            "train.batch=%d keeps so many of %d devices busy; a larger batch would use the others",
            config.batch, jax.device_count(),
        )  # fmt: skip
    # Static in the compiled steps, so rounded: the last bits would cost a compilation.
    radius = float(f"{radius:.4g}")
    state, history = initial_state(start, config, radius), []
    keeper = Checkpoints(checkpoints) if checkpoints else None
    try:
        if keeper and (found := keeper.restore(state)):
            state, history = found
            logging.info("%s: resuming at step %d", name, int(state.step))
        state, history = train(
            state,
            _on_device(views, background, ball),
            _on_device(held_out, background) if held_out else None,
            config,
            radius,
            on_checkpoint=keeper.save if keeper else None,
            history=history,
            name=name,
        )
    except (FloatingPointError, CapacityError) as error:
        raise InputError(
            f"{name}: the training diverged, {error}; lower the learning rates, config.train.rates"
        ) from error
    finally:
        if keeper:
            keeper.close()
    return Fitted(object_from(state.gaussians, views, background, ball), origin, history)


def _within(
    points: np.ndarray, colours: np.ndarray, views: LoadedViews
) -> tuple[np.ndarray, np.ndarray]:
    """Points [P, 3] and their colours without those that most views hide, where masks hide some."""
    if views.shown is None:
        return points, colours
    height, width = views.shown.shape[1:]
    seen, shown = np.zeros(len(points)), np.zeros(len(points))
    for viewmat, mask in zip(views.viewmats, views.shown, strict=True):
        u, v, within = pixels_of(points, viewmat, views.K, width, height)
        seen += within
        shown[within] += mask[v[within], u[within]]
    kept = shown >= _SHOWN * np.maximum(seen, 1.0)
    return points[kept], colours[kept]


def object_from(
    gaussians: Gaussians,
    views: LoadedViews,
    background: tuple[float, float, float],
    ball: tuple[np.ndarray, float] | None = None,
) -> NormalObject:
    """The normal object of a scene, for images like the views.

    Args:
        gaussians: the scene.
        views: that it was fitted to.
        background: RGB in [0, 1] behind the scene.
        ball: centre [3] and radius of the ball that holds the object, where the scene holds its
            surroundings too; None where it holds the object alone.
    """
    height, width = views.images.shape[1:3]
    centre, radius = ball or _extent(gaussians)
    return NormalObject(
        _trimmed(gaussians),
        views.K,
        width=width,
        height=height,
        background=np.asarray(background),
        centre=centre,
        radius=radius,
        surrounded=ball is not None,
        capacity=Capacity(4 * len(gaussians)),
    )


def measure(normal_object: NormalObject, views: LoadedViews) -> dict[str, float]:
    """PSNR in dB and SSIM of an object's renders against views."""
    background = tuple(np.asarray(normal_object.background).tolist())
    psnr, ssim = quality(
        normal_object.gaussians,
        _on_device(views, background),
        sh_degree=normal_object.gaussians.sh_degree,
        capacity=normal_object.capacity,
    )
    return {"psnr": psnr, "ssim": ssim}


def _on_device(
    views: LoadedViews,
    background: tuple[float, ...],
    ball: tuple[np.ndarray, float] | None = None,
) -> Views:
    return Views(
        images=jnp.asarray(views.images),
        viewmats=jnp.asarray(views.viewmats),
        shown=None if views.shown is None else jnp.asarray(views.shown),
        K=jnp.asarray(views.K),
        background=jnp.asarray(background, jnp.float32),
        ball=None if ball is None else jnp.asarray([*ball[0], ball[1]], jnp.float32),
    )


def _extent(gaussians: Gaussians) -> tuple[np.ndarray, float]:
    """Centre and radius of what the Gaussians cover, stragglers left out."""
    means = np.asarray(gaussians.means, np.float64)
    weights = np.asarray(gaussians.opacities, np.float64)
    centre = np.average(means, axis=0, weights=weights)
    distances = np.linalg.norm(means - centre, axis=1)
    order = np.argsort(distances)
    covered = np.cumsum(weights[order]) / weights.sum()
    return centre, float(distances[order][np.searchsorted(covered, 0.99)])


def _trimmed(gaussians: Gaussians) -> Gaussians:
    """Without the highest degrees that are zero; viewers want three, but they cost every render."""
    used = np.flatnonzero(np.any(np.asarray(gaussians.sh), axis=(0, 2)))
    degree = int(np.sqrt(used[-1])) if used.size else 0
    return gaussians.replace(sh=gaussians.sh[:, : (degree + 1) ** 2])
