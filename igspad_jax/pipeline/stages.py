"""All stages of a category, one after the other."""

from pathlib import Path

from igspad_jax.data import Category
from igspad_jax.pipeline.calibration import calibrate_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.training import train_category
from igspad_jax.settings import Settings


def all_stages(
    category: Category,
    folder: RunFolder,
    *,
    settings: Settings,
    overwrite: bool = False,
    normals: Path | None = None,
    scene: Path | None = None,
    points: Path | None = None,
) -> None:
    """Train, calibrate and evaluate a category; arguments and errors as each stage's."""
    train_category(category, folder, settings, overwrite=overwrite, scene=scene, points=points)
    calibrate_category(category, folder, settings, normals=normals)
    evaluate_category(category, folder, settings)
