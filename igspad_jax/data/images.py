"""Images in files: reading, resizing by area, and writing.

Pixels are taken as they are stored: colours stay in the file's encoding (sRGB) and the
orientation tag of a photograph is not applied, since poses and masks refer to the stored grid.
"""

import os
import struct
from pathlib import Path

import cv2
import kornia_rs
import numpy as np

from igspad_jax.errors import InputError
from igspad_jax.files import whole_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
WHITE = (1.0, 1.0, 1.0)
_ROUNDING = 1e-3  # by which floats may lie outside [0, 1]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a PNG, JPEG, TIFF or WebP file.

    Returns:
        uint8 [H, W, 3], or [H, W, 4] where the file has an alpha channel. Grey becomes three equal
        channels; 16 bit values are rounded to 8 bit.

    Raises:
        InputError: the file is missing, is no image, or has a format that cannot be read.
    """
    path = Path(path)
    header = _png_header(path)
    if header is not None and _beyond_kornia(*header[2:]):
        image = _read_with_opencv(path)
    else:
        try:
            image = kornia_rs.io.read_image(str(path))
        except Exception as error:  # kornia_rs raises bare Exceptions for undecodable files
            raise InputError(_unreadable(path, str(error))) from error
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise InputError(
            f"{path} holds {image.dtype} pixels: save it with 8 or 16 bits per channel"
        )
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) in pixels; from the header alone where the file is a PNG.

    Raises:
        InputError: as `read_image`.
    """
    header = _png_header(Path(path))
    if header is not None:
        return header[0], header[1]
    height, width = read_image(path).shape[:2]
    return width, height


def load_image(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    background: tuple[float, float, float] = WHITE,
) -> np.ndarray:
    """Reads an image, lays it on a background and shrinks it by area averaging.

    Args:
        path: the image file.
        size: width of the result in pixels, at most the file's; None keeps the file's. The height
            follows the aspect ratio, rounded.
        background: RGB in [0, 1] behind transparent pixels.

    Returns:
        float32 [h, w, 3] in [0, 1].

    Raises:
        InputError: as `read_image`, or `size` would enlarge the image.
    """
    return prepare_image(read_image(path), size=size, background=background, what=str(path))


def prepare_image(
    pixels: np.ndarray,
    *,
    size: int | None = None,
    background: tuple[float, float, float] = WHITE,
    what: str = "image",
) -> np.ndarray:
    """Lays an image on a background and shrinks it by area averaging.

    Args:
        pixels: uint8 [H, W, 3 or 4], or float [H, W, 3 or 4] in [0, 1].
        size: as for `load_image`.
        background: as for `load_image`.
        what: names the image in errors.

    Returns:
        float32 [h, w, 3] in [0, 1].

    Raises:
        InputError: it is no such image, or `size` would enlarge it.
    """
    pixels = np.asarray(pixels)
    known = pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size or not known:
        raise InputError(
            f"{what}: {pixels.dtype} {pixels.shape} is no image: pass uint8 [H, W, 3 or 4], or "
            "floats in [0, 1]"
        )
    image = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        image /= 255.0
    elif not (
        np.isfinite(image).all() and -_ROUNDING <= image.min() <= image.max() <= 1 + _ROUNDING
    ):
        raise InputError(f"{what}: values that are not in [0, 1]; pass uint8, or scale them")
    if image.shape[2] == 4:
        alpha = image[..., 3:]
        image = image[..., :3] * alpha + np.asarray(background, np.float32) * (1.0 - alpha)
    return _shrink(image, size, what)


def load_mask(path: str | os.PathLike[str], *, size: int | None = None) -> np.ndarray:
    """Reads a region and shrinks it.

    A pixel of the file belongs to the region where its value exceeds half of the file's largest,
    so that files in 0/1 and in 0/255 both read right. A pixel of the result belongs to it where
    at least half of its area does. A region too thin for that keeps the pixels it covers most: a
    region that is not empty in the file is never empty here.

    Args:
        path: the mask file; the largest of its colour channels counts, alpha does not.
        size: width of the result in pixels, as in `load_image`.

    Returns:
        bool [h, w].

    Raises:
        InputError: as `load_image`.
    """
    values = read_image(path)[..., :3].max(axis=2)
    inside = values > int(values.max()) // 2
    return half_covered(_shrink(inside.astype(np.float32), size, path))


def half_covered(coverage: np.ndarray) -> np.ndarray:
    """[h, w] pixels that a region covers by half or more, or else those that it covers most.

    Args:
        coverage: [h, w] shares of the pixels' areas.
    """
    # Area sums are floats: half a pixel may arrive as 0.49999997.
    threshold = min(0.5, float(coverage.max())) * (1.0 - 1e-5)
    return (coverage >= threshold) & (coverage > 0.0)


def resized_shape(width: int, height: int, size: int | None) -> tuple[int, int]:
    """(width, height) that an image of `width` x `height` has after loading at `size`."""
    if size is None:
        return width, height
    return size, max(1, round(height * size / width))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounds an image in [0, 1] (or a bool mask) to uint8; values outside are clipped."""
    return np.rint(np.clip(np.asarray(image, np.float32), 0.0, 1.0) * 255.0).astype(np.uint8)


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes a PNG so that the file is either whole or absent.

    Args:
        path: the file; its name must end in `.png` and its folder must exist.
        image: uint8 [H, W], [H, W, 3] or [H, W, 4].
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"write_image writes PNG files, not {path.name}")
    if image.dtype != np.uint8:
        raise TypeError(f"write_image takes uint8, not {image.dtype}: use to_uint8")
    if image.ndim == 2:
        image = image[..., None]
    mode = {1: "mono", 3: "rgb", 4: "rgba"}[image.shape[2]]
    with whole_file(path) as partial:
        kornia_rs.io.write_image_png_u8(str(partial), np.ascontiguousarray(image), mode)


def _shrink(image: np.ndarray, size: int | None, what: str | os.PathLike[str]) -> np.ndarray:
    height, width = image.shape[:2]
    if size is None or size == width:
        return image
    if not 0 < size < width:
        raise InputError(
            f"{what} is {width} px wide and cannot be loaded at {size} px: "
            f"choose a size from 1 to {width}"
        )
    return cv2.resize(image, resized_shape(width, height, size), interpolation=cv2.INTER_AREA)


def _png_header(path: Path) -> tuple[int, int, int, int] | None:
    """(width, height, bit depth, colour type) of a PNG file, None for another file."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise InputError(_unreadable(path, error.strerror or str(error))) from error
    if len(head) < 26 or not head.startswith(_PNG_SIGNATURE):
        return None
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    return width, height, depth, colour


def _beyond_kornia(depth: int, colour: int) -> bool:
    """Whether kornia_rs cannot read such a PNG or reads it wrongly.

    It refuses fewer than 8 bits and grey with alpha (type 4), and returns the palette's indices in
    place of colours (type 3).
    """
    return depth < 8 or colour in (3, 4)


def _read_with_opencv(path: Path) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(_unreadable(path, "the file is damaged"))
    if image.ndim == 2 or image.shape[2] == 1:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _unreadable(path: Path, reason: str) -> str:
    reason = " ".join(reason.split()).rstrip(".")
    return f"{path} cannot be read as an image ({reason}): replace it by a PNG or JPEG file"
