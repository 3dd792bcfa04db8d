"""The loop over the categories of a data folder."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from igspad_jax.commands.stage import Arguments
from igspad_jax.compilation import use_compilation_cache
from igspad_jax.data import Category, list_categories
from igspad_jax.errors import InputError
from igspad_jax.inspector import resolve
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.mapping import mapped
from igspad_jax.settings import Settings
from igspad_jax.workers import run_tasks

Finished = tuple[Category, RunFolder]


def category_roots(arguments: Arguments) -> list[Path]:
    """The category folders that the arguments name.

    Raises:
        InputError: for a folder that is none, names that are not there, or files for one category
            that several would get.
    """
    # Resolved, for "." has no name.
    roots = {root.resolve().name: root for root in list_categories(arguments.data)}
    if unknown := [name for name in arguments.category if name not in roots]:
        raise InputError(
            f"{arguments.data} has no category {', '.join(unknown)}; it has {', '.join(roots)}"
        )
    taken = [roots[name] for name in roots if name in (arguments.category or roots)]
    for name in ("scene", "points", "normals"):
        if getattr(arguments, name) and len(taken) > 1:
            raise InputError(f"--{name} is for one category: name it with --category")
    return taken


def resolved(arguments: Arguments) -> Settings:
    """The settings, with the names of matcher and features in the place of "auto"."""
    return resolve(arguments.settings, arguments.settings.weights.by_name)


def each_category(
    arguments: Arguments, work: Callable[[Category, RunFolder], None]
) -> Iterator[Finished]:
    """Call `work` with every category and its run folder; one that fails stops no other.

    Args:
        arguments: of the command.
        work: a stage, or several; on a Ray cluster it travels to the workers.

    Yields:
        The categories that went well, as they end. What was wrong with others is printed.

    Raises:
        InputError: for arguments that name no category; at the end, if categories failed.
    """
    use_compilation_cache()
    roots, failed = category_roots(arguments), []
    do = functools.partial(_done, work, arguments.run)
    for root, outcome in run_tasks(do, roots, arguments.ray):
        name = root.resolve().name
        if not isinstance(outcome, InputError):
            yield outcome
        elif len(roots) == 1:
            raise InputError(f"{name}: {outcome}") from outcome
        else:
            print(f"error: {name}: {outcome}", file=sys.stderr)
            failed.append(name)
    if failed:
        raise InputError(f"these categories failed, for the reasons above: {', '.join(failed)}")


def _done(work: Callable[[Category, RunFolder], None], results: Path, root: Path) -> Finished:
    folder = RunFolder(results / root.resolve().name)
    category = mapped(root, folder.root)
    work(category, folder)
    return category, folder


def evaluated(arguments: Arguments) -> dict[str, Finished]:
    """The categories whose results are in the run's folder already, by name."""
    found = {}
    for root in category_roots(arguments):
        name = root.resolve().name
        folder = RunFolder(arguments.run / name)
        try:
            folder.load("metrics")
            found[name] = mapped(root, folder.root), folder
        except InputError:  # nothing of it yet, or nothing that can be read
            continue
    return found
