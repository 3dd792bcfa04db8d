"""The frames of a film: rows of panels with their captions, and the animated file."""

import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igspad_jax.data import to_uint8
from igspad_jax.files import write_whole

_LARGEST = 2_000_000  # bytes
_MILLISECONDS, _LAST_MILLISECONDS = 120, 2500
_WIDTH, _GAP, _HEAD, _FOOT = 200, 6, 24, 22  # pixels of a panel and of what is around
_COLUMNS = ("test image", "render", "difference", "pixels that count")
_STRONG = 0.6  # difference that has the darkest colour
_DIFFERENCE = matplotlib.colormaps["gist_heat_r"]
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


class Moment(NamedTuple):
    """A course at one step.

    Attributes:
        step: its number.
        render: [H, W, 3] at its pose.
        weights: [H, W] what counted for the step before.
        degrees: rotation error.
        percent: camera centre error.
    """

    step: int
    render: np.ndarray
    weights: np.ndarray
    degrees: float
    percent: float


def draw_frame(image: np.ndarray, moments: Mapping[str, Moment], last: int) -> np.ndarray:
    """A row a course: the test image, the render, their difference, the pixels that count.

    Args:
        image: [H, W, 3] test image.
        moments: of each course, by its name.
        last: number of the last step.

    Returns:
        uint8 [h, w, 3].
    """
    height = round(_WIDTH * image.shape[0] / image.shape[1])
    size = (len(_COLUMNS) * (_WIDTH + _GAP) + _GAP, _HEAD + len(moments) * (height + _FOOT))
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(row_of_texts: Sequence[str], middle: int) -> None:
        for column, text in enumerate(row_of_texts):
            x = _GAP + column * (_WIDTH + _GAP) + _WIDTH // 2
            draw.text((x, middle), text, _INK, _font(), anchor="mm")

    write(_COLUMNS, _HEAD // 2)
    for row, (name, moment) in enumerate(moments.items()):
        top = _HEAD + row * (height + _FOOT)
        for column, panel in enumerate(_panels(image, moment.render, moment.weights)):
            shown = Image.fromarray(_fitted(to_uint8(panel), height))
            canvas.paste(shown, (_GAP + column * (_WIDTH + _GAP), top))
        texts = [name, f"step {moment.step} of {last}"]
        texts += [f"rotation off by {moment.degrees:.2f}°", f"camera off by {moment.percent:.2f} %"]
        write(texts, top + height + _FOOT // 2)
    return np.asarray(canvas)


def write_film(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Writes an animated WebP of less than 2 MB that loops for ever and pauses on its last frame.

    Args:
        path: a .webp file.
        frames: uint8 [h, w, 3], equally large.
    """
    first, *others = [Image.fromarray(frame) for frame in frames]
    durations = [_MILLISECONDS] * len(others) + [_LAST_MILLISECONDS]
    data = io.BytesIO()
    for quality in (80, 60, 40, 20):
        data = io.BytesIO()
        first.save(
            data,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            quality=quality,
            method=4,
        )
        if data.tell() < _LARGEST:
            break
    write_whole(path, lambda file: file.write(data.getvalue()))


def _panels(image: np.ndarray, render: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    difference = np.abs(render - image).mean(axis=-1) / _STRONG
    heat = np.asarray(_DIFFERENCE(np.clip(difference, 0.0, 1.0)))[..., :3]
    greyed = 0.62 + 0.24 * image.mean(axis=-1, keepdims=True)
    counting = np.where(weights[..., None] > 0.0, image, greyed)
    return [image, render, heat, counting]


def _fitted(panel: np.ndarray, height: int) -> np.ndarray:
    shrinks = panel.shape[1] > _WIDTH
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(panel, (_WIDTH, height), interpolation=how)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(str(file), 12)
