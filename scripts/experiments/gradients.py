"""How much the ways of forming the pose gradient differ."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.methods import GRADIENTS
from experiments.runs import start_of
from experiments.starts import Level
from experiments.store import load_result, save_result
from experiments.subjects import Source, Subject
from igspad_jax.cameras import Camera
from igspad_jax.evaluate.tables import Table, format_value
from igspad_jax.invert.gradients import value_and_pose_gradient
from igspad_jax.invert.poses import twist_basis
from igspad_jax.normal_object import NormalObject
from igspad_jax.progress import progress_bar
from igspad_jax.settings import GradientMode, Pivot

_REFERENCE: GradientMode = "autodiff"
_NEAR = Level(0.5, 0.5)  # where a descent is about to succeed
_PARTS = {"translation": slice(0, 3), "rotation": slice(3, 6), "all": slice(0, 6)}
_PIVOTS: tuple[Pivot, ...] = ("camera", "object")


@functools.partial(jax.jit, static_argnames=("sh_degree", "capacity"))
def _gradients(gaussians, viewmat, image, K, background, *, sh_degree, capacity):
    """See `pose_gradients`; in one program, which shares what the modes have in common."""

    def loss(seen):
        return jnp.mean(jnp.abs(seen.colour - image)), seen.pairs

    camera = Camera(viewmat, K, image.shape[1], image.shape[0])
    by_twist, pairs = {}, []
    for mode in GRADIENTS:
        (_, asked), by_twist[mode] = value_and_pose_gradient(
            loss, gaussians, camera, background, mode=mode, sh_degree=sh_degree, capacity=capacity
        )
        pairs.append(asked)
    return by_twist, jnp.max(jnp.stack(pairs))


def pose_gradients(
    model: NormalObject, image: np.ndarray, viewmat: np.ndarray
) -> dict[GradientMode, np.ndarray]:
    """[6] gradients of the L1 loss by the camera's twist [rho, theta], formed in each mode.

    Args:
        model: the object.
        image: [H, W, 3] test image.
        viewmat: [4, 4] pose.

    Returns:
        float64, by world units and radians.
    """

    def at(slots):
        return _gradients(
            model.gaussians,
            jnp.asarray(viewmat, jnp.float32),
            jnp.asarray(image),
            model.K,
            model.background,
            sh_degree=model.gaussians.sh_degree,
            capacity=slots,
        )

    by_twist, _ = model.capacity.run(at, lambda result: result[1])
    return {mode: np.asarray(by_twist[mode], np.float64) for mode in GRADIENTS}


def compare_gradients(
    subject: Subject,
    levels: Sequence[Level],
    folder: Path,
    *,
    seed: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compares the gradient modes at the starts of an experiment and near the true poses.

    Args:
        subject: the object and its images.
        levels: of the starts.
        folder: for gradients.json.
        seed: of the starts.
        overwrite: whether to replace a result made with other settings.

    Returns:
        `rows`: for every source, initial error, pivot and mode, the `cosine` with the reference and
        the `norm` as a share of the reference's, both a list over the images for each part of the
        twist [rho, theta] in object radii and radians.

    Raises:
        InputError: for a result made with other settings, if `overwrite` is off.
    """
    places = list(dict.fromkeys([*levels, _NEAR]))
    path = folder / "gradients.json"
    made_with = {
        "origin": subject.origin,
        "images": {source: [t.name for t in own] for source, own in subject.trials.items()},
        "seed": seed,
        "levels": [list(place) for place in places],
    }
    found = load_result(path, made_with, overwrite=overwrite)
    if found:
        return found
    total = len(places) * sum(map(len, subject.trials.values()))
    rows = []
    with progress_bar(total, f"gradients {subject.name}", "image") as bar:
        for source in subject.trials:
            for place in places:
                gradients = _at_starts(subject, source, place, seed, bar)
                for pivot in _PIVOTS:
                    rows += _rows(gradients, source, place, pivot)
    return save_result(path, made_with, {"category": subject.name, "rows": rows})


def _at_starts(subject: Subject, source: Source, level: Level, seed: int, bar: tqdm):
    """[images, 6] gradients of each pivot and mode, in object radii and radians."""
    model = subject.model
    gradients: dict[tuple[Pivot, GradientMode], list[np.ndarray]] = {}
    for trial in subject.trials[source]:
        viewmat = start_of(subject, trial, level, seed)
        by_twist = pose_gradients(model, trial.image, viewmat)
        for pivot in _PIVOTS:
            pose = jnp.asarray(viewmat, jnp.float32)
            basis = np.asarray(twist_basis(pose, model.centre, model.radius, pivot))
            for mode in GRADIENTS:
                gradients.setdefault((pivot, mode), []).append(basis.T @ by_twist[mode])
        bar.update()
    return {key: np.stack(own) for key, own in gradients.items()}


def _rows(gradients, source: Source, level: Level, pivot: Pivot) -> list[dict[str, Any]]:
    rows = []
    for mode in GRADIENTS:
        if mode == _REFERENCE:
            continue
        row = {"source": source, "level": list(level), "pivot": pivot, "mode": mode}
        for part, place in _PARTS.items():
            own, reference = (
                gradients[pivot, mode][:, place],
                gradients[pivot, _REFERENCE][:, place],
            )
            lengths = np.linalg.norm(own, axis=1), np.linalg.norm(reference, axis=1)
            row[part] = {
                "cosine": np.sum(own * reference, axis=1) / np.prod(lengths, axis=0),
                "norm": lengths[0] / lengths[1],
            }
        rows.append(row)
    return rows


def gradient_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The cosines and norms of all categories together, mean and least.

    Args:
        results: as `compare_gradients` returns them.
    """
    grouped: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in (row for result in results for row in result["rows"]):
        key = (row["mode"], row["pivot"], row["source"], str(Level(*row["level"])))
        grouped.setdefault(key, []).append(row)
    lines = []
    for key in sorted(grouped, key=lambda key: key[:3]):
        line = list(key)
        for measure in ("cosine", "norm"):
            for part in _PARTS:
                values = np.concatenate([row[part][measure] for row in grouped[key]]).astype(float)
                cell = format_value(float(values.mean()), 5 if measure == "cosine" else 3)
                if measure == "cosine":
                    cell += f" ({format_value(float(values.min()), 4)})"
                line.append(cell)
        lines.append(tuple(line))
    return Table(
        f"Pose gradients beside {_REFERENCE}'s",
        (
            "gradient", "pivot", "images", "at",
            *(f"cos {part}" for part in _PARTS), *(f"norm {part}" for part in _PARTS),
        ),
        tuple(lines),
        (
            "cos: mean cosine with the reference, in brackets the least of an image; norm: mean "
            "share of the reference's",
            "at: distance from the true pose in degrees/per cent",
        ),
    )  # fmt: skip
