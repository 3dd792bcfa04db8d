"""Parts that a whole image goes through: matching, inversion, detection.

The images are renders of the scene itself with some noise, so that the solver has a pose to find.
Matchers and features are those that a run takes when left alone: the best whose weights are at
hand.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from benchmarking.scenes import RADIUS, Scene, cameras
from benchmarking.timing import Prepared
from igspad_jax.batches import batches
from igspad_jax.cameras import pose_errors
from igspad_jax.data import LoadedViews
from igspad_jax.inspector import Inspector
from igspad_jax.invert import invert
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.settings import InspectorConfig, InvertConfig, MatchConfig

_TRAINING_VIEWS = 32
_NOISE = 0.02  # standard deviation in the units of the images
_OFF = 8.0  # degrees of the first hypothesis, and twice, three times as many of the others


class _Subject(NamedTuple):
    """The object and images of it.

    Attributes:
        model: the object.
        images: [B, H, W, 3] in [0, 1].
        viewmats: [B, 4, 4] true poses of the images.
    """

    model: NormalObject
    images: np.ndarray
    viewmats: np.ndarray

    def errors(self, viewmats: np.ndarray) -> dict[str, float]:
        """Median errors of [B, 4, 4] poses, for the record."""
        degrees, percent = pose_errors(viewmats, self.viewmats, np.zeros(3))
        return {"degrees": float(np.median(degrees)), "percent": float(np.median(percent))}


def _subject(scene: Scene) -> _Subject:
    model = NormalObject(
        jax.tree.map(jnp.asarray, scene.gaussians),
        scene.K,
        width=scene.size,
        height=scene.size,
        background=scene.background,
        centre=np.zeros(3),
        radius=RADIUS,
        capacity=Capacity(4 * len(scene.gaussians)),
    )
    noise = _NOISE * np.random.default_rng(2).normal(size=(scene.size, scene.size, 3))
    images = np.clip(_one_by_one(model, scene.viewmats) + noise, 0.0, 1.0)
    return _Subject(model, images.astype(np.float32), scene.viewmats)


def _one_by_one(model: NormalObject, viewmats: np.ndarray) -> np.ndarray:
    """Renders in the memory of one."""
    return np.concatenate([model.renders(viewmat[None]) for viewmat in viewmats])


def _inspector(subject: _Subject) -> Inspector:
    """An inspector with the default settings, views of the object for training images."""
    # Between the cameras of the images.
    viewmats = cameras(_TRAINING_VIEWS, first=0.4)
    training = _one_by_one(subject.model, viewmats.astype(np.float32))
    views = LoadedViews(training, viewmats, np.asarray(subject.model.K))
    return Inspector(subject.model, views, InspectorConfig())


def _match(scene: Scene) -> Prepared:
    subject = _subject(scene)
    inspector = _inspector(subject)
    photographs = [inspector.read(image) for image in subject.images]
    inspector.first_poses(photographs[0])  # makes ready what is made once for all images

    def run() -> np.ndarray:
        return np.stack([inspector.first_poses(p)[0].viewmat for p in photographs])

    def figures(found: np.ndarray) -> dict[str, Any]:
        return {"matcher": inspector.config.match.matcher, **subject.errors(found)}

    return Prepared(run, figures=figures)


def _turned(viewmats: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """Poses turned about the object by an angle, about axes by chance."""
    axes = np.random.default_rng(seed).normal(size=(len(viewmats), 3))
    axes *= np.radians(degrees) / np.linalg.norm(axes, axis=1, keepdims=True)
    turned = viewmats.copy()
    turned[:, :3, :3] = Rotation.from_rotvec(axes).as_matrix() @ viewmats[:, :3, :3]
    return turned


def _invert(scene: Scene) -> Prepared:
    subject = _subject(scene)
    hypotheses = MatchConfig().hypotheses
    initial = [_turned(subject.viewmats, _OFF * (i + 1), seed=i) for i in range(hypotheses)]
    config = InvertConfig(batch=len(subject.images))

    def run() -> np.ndarray:
        return invert(subject.model, subject.images, np.stack(initial, axis=1), config).viewmats

    return Prepared(run, figures=subject.errors)


def _detect(scene: Scene) -> Prepared:
    subject = _subject(scene)
    inspector = _inspector(subject)

    def run() -> list[float]:
        scores = []
        for chosen, real in batches(len(subject.images), inspector.batch):
            images, viewmats = subject.images[chosen], subject.viewmats[chosen]
            renders = subject.model.renders(viewmats)
            anomaly_maps = inspector.comparison.anomaly_maps(images, renders)
            scores += [inspector.score(anomaly_map) for anomaly_map in anomaly_maps[:real]]
        return scores

    def figures(scores: list[float]) -> dict[str, Any]:
        return {"features": inspector.comparison.name, "score": float(np.mean(scores))}

    return Prepared(run, figures=figures)


STAGES = {"match": _match, "invert": _invert, "detect": _detect}
