"""What a stage's results depend on, so that none is mixed with those of other settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from igspad_jax.data import Category, TestImage
from igspad_jax.detect import EXTRACTORS
from igspad_jax.errors import InputError
from igspad_jax.match import MATCHERS
from igspad_jax.pipeline.folder import STAGES, RunFolder
from igspad_jax.pipeline.settings import Settings, as_json


def chosen_tests(category: Category, settings: Settings) -> tuple[TestImage, ...]:
    """The test images a run looks at: all, or the first `data.limit` of each kind.

    Raises:
        InputError: if there are none.
    """
    if not category.test:
        raise InputError(f"{category.root} has no test images; put them into {category.root}/test")
    limit = settings.data.limit
    taken: dict[str, list[TestImage]] = {}
    for image in category.test:
        taken.setdefault(image.kind, []).append(image)
    return tuple(image for kind in taken.values() for image in kind[: limit or None])


def left_out(category: Category, settings: Settings) -> str | None:
    """Says which test images `data.limit` leaves out; None where it leaves out none."""
    missing = len(category.test) - len(chosen_tests(category, settings))
    if not missing:
        return None
    limit = settings.data.limit
    return f"data.limit={limit} leaves out {missing} of {len(category.test)} test images"


def concerns(stage: str, category: Category, settings: Settings) -> dict[str, Any]:
    """The settings and the data that a stage itself reads, as JSON.

    The stages before it are not repeated here; a stage's file holds theirs as well.
    """
    data = as_json(settings.data)
    limit = data.pop("limit")  # concerns test images only
    if stage == "train":
        where = {"category": str(category.root.resolve()), "views": len(category.train)}
        return {"data": where | data, "train": as_json(settings.train)}
    if stage == "poses":
        tests = Counter(test.kind for test in chosen_tests(category, settings))
        return {
            "match": as_json(settings.match),
            "weights": _sources(settings, MATCHERS.get(settings.match.matcher, ())),
            "invert": as_json(settings.invert),
            "limit": limit,
            "tests": dict(tests),
        }
    if stage == "detect":
        features = settings.detect.features.split("*")
        names = [weights for name in features for weights in EXTRACTORS.get(name, ())]
        return {
            "detect": as_json(settings.detect),
            "weights": _sources(settings, names),
            "breakdown": settings.evaluate.breakdown,
        }
    return {"evaluate": as_json(settings.evaluate)}


def _sources(settings: Settings, names: Sequence[str]) -> dict[str, str]:
    """The sources that the user gave for weights a stage takes."""
    return {name: source for name, source in settings.weights.by_name.items() if name in names}


def check_before(stage: str, category: Category, settings: Settings, folder: RunFolder) -> None:
    """Checks that the stages before one are done, with the same settings and data.

    Args:
        stage: one of `STAGES`, or "report".
        category: the category.
        settings: of the run.
        folder: the category's run folder.

    Raises:
        InputError: if one is not.
    """
    before = STAGES if stage == "report" else STAGES[: STAGES.index(stage)]
    for earlier in before:
        folder.require(earlier, concerns(earlier, category, settings))
