"""Measures how far each way of finding a pose reaches, how exact it gets, and what it costs.

    python scripts/experiment_poses.py --data=DATA --run=RUN --config=cpu200 --out=OUT

Needs trained scenes and test images with known poses. Every method starts from the same poses: the
true ones, turned and shifted by known amounts. Seconds are of one image at a time, without
compilation. Finished measurements are not repeated. --out gets

    table.md                 success, errors, steps and seconds of every method from every start
    results.json             the same figures, and the final errors of every image
    success.png              success rates against the initial error
    convergence.png          rotation errors over steps and over seconds
    gradients.md             how far the gradients of the methods point into the same direction
    CATEGORY/grid/           the measurements themselves, kept where a run is interrupted
    CATEGORY/gradients.json  the cosines of every image
    CATEGORY/film.webp       one descent step by step, without and with matching point sampling
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import (
    METHODS,
    SUCCESS,
    Level,
    Source,
    Subject,
    Trial,
    check_methods,
    compare_gradients,
    experiment_tables,
    film_test,
    gradient_table,
    grid,
    make_film,
    markdown,
    parse_levels,
    rendered,
    results,
    run_grid,
    select_tests,
    write_convergence,
    write_success,
)
from igspad_jax.commands.categories import each_category, resolved
from igspad_jax.commands.stage import Arguments, run_stage
from igspad_jax.data import Category, TestImage, load_test
from igspad_jax.errors import InputError
from igspad_jax.evaluate.tables import Table, format_table
from igspad_jax.files import write_json, write_whole
from igspad_jax.inspector import load_object
from igspad_jax.machine import machine
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.settings import Settings

_PARTS = ("grid", "gradients", "film")
_SAMPLING = {"off": [False], "on": [True], "both": [False, True]}
_SOURCES: dict[str, list[Source]] = {
    "real": ["real"],
    "model": ["model"],
    "both": ["real", "model"],
}

_OUT = flags.DEFINE_string("out", None, "Folder for the results; needed.")
_PARTS_FLAG = flags.DEFINE_list("parts", list(_PARTS), f"What to make: {', '.join(_PARTS)}.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), f"Among {', '.join(METHODS)}.")
_SAMPLING_FLAG = flags.DEFINE_enum(
    "sampling", "both", list(_SAMPLING), "Matching point sampling: with it, without it, or both."
)
_ERRORS = flags.DEFINE_list(
    "errors",
    ["5/5", "10/10", "15/15", "30/15", "45/20", "60/30"],
    "Initial errors, DEGREES/PERCENT of the distance.",
)
_IMAGES = flags.DEFINE_integer("images", 8, "Test images of each category.", lower_bound=1)
_SOURCE = flags.DEFINE_enum(
    "source",
    "real",
    list(_SOURCES),
    "Test images, the model's renders of the same views, or both.",
)
_SUCCESS = flags.DEFINE_string(
    "success", str(SUCCESS), "Errors below which a pose is found, DEGREES/PERCENT."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the starts' directions.", lower_bound=0)
_FILM = flags.DEFINE_string(
    "film", None, "Test image of the film, KIND/N; the one with the largest defect if not given."
)
_FILM_START = flags.DEFINE_string("film_start", "5/5", "Initial error of the film.")
_FILM_METHOD = flags.DEFINE_enum(
    "film_method", "adam-camera-paper", list(METHODS), "What the film shows."
)


def _out() -> Path:
    if not _OUT.value:
        raise InputError("--out is missing: give a folder for the results")
    return Path(_OUT.value)


def _parts() -> list[str]:
    for part in _PARTS_FLAG.value:
        if part not in _PARTS:
            raise InputError(f"--parts: there is no {part!r}; choose among {', '.join(_PARTS)}")
    return _PARTS_FLAG.value


def _trial(category: Category, test: TestImage, settings: Settings) -> Trial:
    assert test.viewmat is not None
    return Trial(test.name, load_test(category, test, **settings.data.reading).image, test.viewmat)


def _subject(category: Category, settings: Settings, folder: RunFolder) -> Subject:
    """The category's scene and the test images that the flags choose."""
    origin = folder.load("training")["made_with"]
    model, _ = load_object(folder.object)
    tests = select_tests(category.test, _IMAGES.value)
    real = tuple(_trial(category, test, settings) for test in tests)
    if real[0].image.shape != (model.height, model.width, 3):
        raise InputError(
            f"{folder.object} is of images of {model.width}x{model.height} pixels and the test "
            "images are of another size; give the settings of its training, config.data.size"
        )
    trials: dict[Source, tuple[Trial, ...]] = {"real": real}
    if "model" in _SOURCES[_SOURCE.value]:
        trials["model"] = tuple(rendered(model, trial, _SEED.value) for trial in real)
    return Subject(
        name=category.name,
        model=model,
        trials={source: trials[source] for source in _SOURCES[_SOURCE.value]},
        origin=origin,
    )


def _print(tables: Sequence[Table]) -> None:
    print("\n\n".join(format_table(table) for table in tables), end="\n\n")


def _write_grid(records: Sequence[Mapping[str, Any]], out: Path, success: Level) -> None:
    """The table, the plots and the file of all categories together."""
    tables = experiment_tables(records, success)
    _print(tables)
    text = "\n".join(markdown(table) for table in tables)
    print(write_whole(out / "table.md", lambda file: file.write(text.encode())))
    content = {"machine": machine(), **results(records, success)}
    print(write_json(out / "results.json", content))
    for name, write in (("success", write_success), ("convergence", write_convergence)):
        write(out / f"{name}.png", records, success)
        print(out / f"{name}.png")


def main(arguments: Arguments) -> None:
    """Runs the experiment on every category."""
    overwrite, out, parts = arguments.overwrite, _out(), _parts()
    methods, levels = check_methods(_METHODS.value), parse_levels(_ERRORS.value)
    (film_level,) = parse_levels([_FILM_START.value])
    (success,) = parse_levels([_SUCCESS.value])
    cells = grid(_SOURCES[_SOURCE.value], levels, _SAMPLING[_SAMPLING_FLAG.value], methods)
    settings, seed = resolved(arguments), _SEED.value
    base = settings.invert
    records, gradients = [], []

    def work(category: Category, folder: RunFolder) -> None:
        subject, place = _subject(category, settings, folder), out / category.name
        if "film" in parts:
            test = film_test(category.test, _FILM.value)
            trial, method = _trial(category, test, settings), _FILM_METHOD.value
            film = make_film(
                subject, trial, film_level, method, base, place, seed=seed, overwrite=overwrite
            )
            print(f"{film}: {test.name}")
        if "gradients" in parts:
            gradients.append(
                compare_gradients(subject, levels, place, seed=seed, overwrite=overwrite)
            )
        if "grid" in parts:
            records.extend(
                run_grid(subject, cells, base, place / "grid", seed=seed, overwrite=overwrite)
            )

    try:
        for _ in each_category(arguments, work):
            pass
    finally:
        if gradients:
            table = gradient_table(gradients)
            _print([table])
            path, content = out / "gradients.md", markdown(table).encode()
            print(write_whole(path, lambda file: file.write(content)))
        if records:
            _write_grid(records, out, success)


if __name__ == "__main__":
    run_stage(main)
