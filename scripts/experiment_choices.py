"""Measures what matchers, features and image scores are worth, on scenes that are trained already.

    python scripts/experiment_choices.py --data=DATA --run=RUN --config=CONFIG --out=OUT

Needs the run folder of `run.py`, or, but for the scores, of `train.py` alone, and test images with
masks; with known poses and clean images the tables say more. What is measured already is not
measured again. --out gets

    matchers.md, matchers.json   first and final poses, seconds and figures of every matcher
    features.md, features.json   figures of every combination of features, against renders and
                                 against clean images
    scores.md, scores.json       figures of every way to score an image, on the run as it is
    NAME/CATEGORY/               a run folder of every matcher and combination of features
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import features_table, markdown, matchers_table
from experiments.scores import Inspected, score_figures, score_tables
from igspad_jax.commands.categories import each_category, resolved
from igspad_jax.commands.stage import Arguments, run_stage
from igspad_jax.data import Category, load_defect, read_image
from igspad_jax.detect import extractors_at_hand
from igspad_jax.errors import InputError
from igspad_jax.evaluate.tables import Table, format_table
from igspad_jax.files import write_json, write_whole
from igspad_jax.inspector import Inspector
from igspad_jax.machine import machine
from igspad_jax.match import matchers_at_hand
from igspad_jax.networks.weight_sets import EXTRACTORS, MATCHERS
from igspad_jax.pipeline.calibration import calibrate_category, calibration_files
from igspad_jax.pipeline.evaluation import chosen_tests, evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.settings import Settings

_OUT = flags.DEFINE_string("out", None, "Folder for the results; needed.")
_PARTS = flags.DEFINE_list("parts", ["matchers", "features", "scores"], "What to measure.")
_MATCHERS = flags.DEFINE_list("matchers", [], "Matchers to try; all whose weights are at hand.")
_RULES = flags.DEFINE_list(
    "rules",
    ["matches", "pnp", "matches-all"],
    "Rules for the first pose: matches (the paper's) and pnp, with the views of match.shortlist; "
    "matches-all and pnp-all, with all training views.",
)
_COMBINATIONS = flags.DEFINE_list(
    "combinations",
    [],
    "Features to try, such as handmade,xfeat*handmade, after each of their extractors alone; if "
    "empty each one whose weights are at hand, alone and with handmade.",
)


def main(arguments: Arguments) -> None:
    """Runs the parts on every category."""
    settings = resolved(arguments)
    if not _OUT.value:
        raise InputError("--out is missing: give a folder for the results")
    out, parts = Path(_OUT.value), dict.fromkeys(_PARTS.value)
    _known(list(parts), ("matchers", "features", "scores"), "--parts")
    tried: dict[str, dict[str, Settings]] = {
        "matchers": _matcher_settings(settings) if "matchers" in parts else {},
        "features": _feature_settings(settings) if "features" in parts else {},
        "scores": {},
    }
    rate = settings.calibrate.false_alarm_rate
    results: dict[str, dict[str, dict[str, Any]]] = {part: {} for part in parts}

    def work(category: Category, folder: RunFolder) -> None:
        if "scores" in parts:
            inspector, images = inspected_images(category, settings, folder)
            results["scores"][category.name] = score_figures(category.name, inspector, images, rate)
        for part in parts:
            for name, changed in tried[part].items():
                own = RunFolder(out / name.replace("*", "-x-") / category.name)
                _copy(folder, own)
                calibrate_category(category, own, changed)
                evaluate_category(category, own, changed)
                found = {"poses": own.load("inspections"), "metrics": own.load("metrics")}
                results[part].setdefault(name, {})[category.name] = found

    makers = {
        "matchers": matchers_table,
        "features": features_table,
        "scores": lambda figures: [score_tables(figures, rate)],
    }
    try:
        for _ in each_category(arguments, work):
            pass
    finally:
        for part in parts:
            if results[part]:
                _write(makers[part](results[part]), results[part], out / part)


def inspected_images(
    category: Category, settings: Settings, folder: RunFolder
) -> tuple[Inspector, list[Inspected]]:
    """The inspector of a finished run, its calibration images and its labelled test images."""
    folder.load("inspections")
    inspector = Inspector.load(folder.object, settings.weights.by_name)
    left_out = inspector.calibration.left_out
    images = []
    for name, path in calibration_files(category, settings).items():
        if name not in left_out:
            pose = folder.calibration.pose(name)
            image = inspector.read(read_image(path), str(path)).image
            images.append(Inspected(image, pose))
    for test in chosen_tests(category, settings):
        image = inspector.read(read_image(test.path), str(test.path)).image
        mask = load_defect(test, inspector.normal_object.working_camera)
        if test.labelled:
            images.append(Inspected(image, folder.inspected.pose(test.name), mask))
    return inspector, images


def _matcher_settings(settings: Settings) -> dict[str, Settings]:
    names = _known(_MATCHERS.value or matchers_at_hand(), MATCHERS, "--matchers")
    known = ("matches", "pnp", "matches-all", "pnp-all")
    tried = {}
    for rule in _known(_RULES.value, known, "--rules"):
        initial, _, views = rule.partition("-")
        for name in names:
            match = dataclasses.replace(settings.match, matcher=name, initial=initial)
            if views:
                match = dataclasses.replace(match, shortlist=0)
            evaluate = dataclasses.replace(settings.evaluate, breakdown=False)
            tried[f"{name}-{rule}"] = dataclasses.replace(settings, match=match, evaluate=evaluate)
    return tried


def _feature_settings(settings: Settings) -> dict[str, Settings]:
    names = _COMBINATIONS.value
    if not names:
        alone = extractors_at_hand()
        names = [*alone, *(f"{name}*handmade" for name in alone if name != "handmade")]
    for name in names:
        _known(name.split("*"), EXTRACTORS, "--combinations")
    # First the single ones.
    alone = dict.fromkeys(single for name in names for single in name.split("*"))
    names = dict.fromkeys([*alone, *names])
    return {
        name: dataclasses.replace(
            settings,
            detect=dataclasses.replace(settings.detect, features=name),
            evaluate=dataclasses.replace(settings.evaluate, breakdown=True),
        )
        for name in names
    }


def _known(names: Sequence[str], known: Sequence[str] | Mapping[str, Any], flag: str) -> list[str]:
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{flag} has no {', '.join(unknown)}; there are {', '.join(known)}")
    return list(names)


def _copy(folder: RunFolder, own: RunFolder) -> None:
    """Takes over the object, and the images' results, whose poses may still hold."""
    folder.load("training")  # says what to do where it is missing
    if not own.path("training").exists():
        own.root.mkdir(parents=True, exist_ok=True)
        for part in (folder.object, folder.calibration.root, folder.inspected.root):
            if part.is_dir():
                shutil.copytree(part, own.root / part.name, dirs_exist_ok=True)
        shutil.copy2(folder.path("training"), own.path("training"))


def _write(tables: Sequence[Table], results: Mapping[str, Any], path: Path) -> None:
    print("\n\n".join(format_table(table) for table in tables), end="\n\n")
    text = "\n".join(markdown(table) for table in tables)
    print(write_whole(path.with_suffix(".md"), lambda file: file.write(text.encode())))
    print(write_json(path.with_suffix(".json"), {"machine": machine(), "results": results}))


if __name__ == "__main__":
    run_stage(main)
