"""A descent step by step as an animated picture, without and with matching point sampling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.frames import Moment, draw_frame, write_film
from experiments.methods import config_of, relevant_settings
from experiments.runs import start_of
from experiments.starts import Level
from experiments.store import load_result, save_result
from experiments.subjects import Subject, Trial
from igspad_jax.cameras import pose_errors
from igspad_jax.data import TestImage, load_mask
from igspad_jax.errors import InputError
from igspad_jax.invert import invert
from igspad_jax.invert.sampling import matching_weights
from igspad_jax.match import OpenCVMatcher, matched_points
from igspad_jax.settings import InvertConfig

_FRAMES = 40
_COURSES = {"whole image": False, "matching points": True}


def film_test(tests: Sequence[TestImage], name: str | None) -> TestImage:
    """The image that a film shows: the named one, or the one with the largest defect.

    Args:
        tests: of a category.
        name: for example "Burrs/3"; None chooses.

    Raises:
        InputError: if there is no such image with a known pose.
    """
    known = {test.name: test for test in tests if test.viewmat is not None}
    if name is not None:
        if name not in known:
            raise InputError(
                f"there is no test image {name!r} with a known pose; there are "
                f"{', '.join(known) or 'none'}"
            )
        return known[name]
    sizes = {
        test.name: load_mask(test.mask_path).sum()
        for test in known.values()
        if test.mask_path is not None
    }
    if not sizes:
        raise InputError(
            "no defective test image with a mask has a known pose; name an image for the film"
        )
    return known[max(sizes, key=lambda name: sizes[name])]


def frame_steps(steps: int) -> np.ndarray:
    """The steps that are shown, closer together at the beginning, where more happens."""
    return np.unique(np.round(steps * np.linspace(0.0, 1.0, _FRAMES) ** 1.6).astype(int))


def follow(
    subject: Subject, trial: Trial, initial: np.ndarray, config: InvertConfig
) -> list[Moment]:
    """Inverts an image and keeps what the film shows of it.

    Args:
        subject: the object.
        trial: the image.
        initial: [4, 4] pose to start from.
        config: how; sampling may be on or off.
    """
    model, matcher = subject.model, OpenCVMatcher()
    done, weights = 0, {0: np.ones(trial.image.shape[:2], np.float32)}

    def match_points(image, render):
        points = matched_points(matcher, image, render)
        weights[done] = matching_weights(
            points,
            width=model.width,
            height=model.height,
            radius=config.sampling_radius * model.width,
            min_points=config.sampling_min_points,
        )
        return points

    def on_step(steps):
        nonlocal done
        done += steps

    path = invert(
        model,
        trial.image[None],
        np.asarray(initial, np.float32)[None, None],
        config,
        match_points=match_points,
        on_step=on_step,
    ).path[0]
    degrees, percent = pose_errors(path, trial.viewmat, subject.centre)
    return [
        Moment(
            step=int(step),
            render=model.renders(path[step]),
            weights=weights[max(at for at in weights if at < max(step, 1))],
            degrees=float(degrees[step]),
            percent=float(percent[step]),
        )
        for step in frame_steps(len(path) - 1)
    ]


def make_film(
    subject: Subject,
    trial: Trial,
    level: Level,
    method: str,
    base: InvertConfig,
    folder: Path,
    *,
    seed: int,
    overwrite: bool = False,
) -> Path:
    """Films the inversion of one image, without sampling above and with it below.

    Args:
        subject: the object.
        trial: the image.
        level: the error of the start.
        method: one of `METHODS`.
        base: settings that the methods share.
        folder: for film.webp, and film.json with the final errors.
        seed: of the start.
        overwrite: whether to replace a film made with other settings.

    Returns:
        The film's path.

    Raises:
        InputError: for a film made with other settings, if `overwrite` is off.
    """
    path, note = folder / "film.webp", folder / "film.json"
    made_with = {
        "origin": subject.origin,
        "image": trial.name,
        "start": list(level),
        "seed": seed,
        "invert": relevant_settings(config_of(method, base, sampling=True)),
    }
    if load_result(note, made_with, overwrite=overwrite) and path.is_file():
        return path
    initial = start_of(subject, trial, level, seed)
    courses = {
        name: follow(subject, trial, initial, config_of(method, base, sampling=sampling))
        for name, sampling in _COURSES.items()
    }
    last = next(iter(courses.values()))[-1].step
    frames = [
        draw_frame(trial.image, dict(zip(courses, moments, strict=True)), last)
        for moments in zip(*courses.values(), strict=True)
    ]
    write_film(path, frames)
    ends: dict[str, Any] = {
        name: {"degrees": course[-1].degrees, "percent": course[-1].percent}
        for name, course in courses.items()
    }
    save_result(note, made_with, {"method": method, "final": ends})
    return path
