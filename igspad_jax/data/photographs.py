"""A photograph as it was taken, and as the working camera would have taken it."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from igspad_jax.data.images import WHITE, half_covered, prepare_image
from igspad_jax.data.lenses import Lens, WorkingCamera
from igspad_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph and its working image.

    Attributes:
        pixels: uint8 or float [H, W, 3 or 4], as taken.
        lens: that it was taken through.
        image: float32 [h, w, 3] in [0, 1], as the working camera takes it.
        shown: bool [h, w], False where the photograph does not reach.
    """

    pixels: np.ndarray
    lens: Lens
    image: np.ndarray
    shown: np.ndarray

    @classmethod
    def read(
        cls,
        pixels: np.ndarray,
        lens: Lens,
        camera: WorkingCamera,
        *,
        background: tuple[float, float, float] = WHITE,
        what: str = "image",
    ) -> Self:
        """Lay a photograph on a background and resample it.

        Args:
            pixels: uint8 [H, W, 3 or 4], or float in [0, 1].
            lens: that it was taken through.
            camera: the working camera.
            background: RGB in [0, 1] behind transparent pixels.
            what: names the photograph in errors.

        Raises:
            InputError: it is no image, or would have to be enlarged.
        """
        own = camera.lens
        if camera.takes(lens):
            image = prepare_image(pixels, size=own.width, background=background, what=what)
            return cls(pixels, lens, image, np.ones(image.shape[:2], bool))
        if max(lens.width, lens.height) < max(own.width, own.height):
            raise InputError(
                f"{what} is {lens.width} x {lens.height} px and cannot be loaded at {own.width} x "
                f"{own.height}: take it with more pixels, or choose a smaller size"
            )
        image = prepare_image(pixels, background=background, what=what)
        shown = camera.shown(lens)
        resampled = np.clip(camera.resample(image, lens), 0.0, 1.0)
        return cls(pixels, lens, resampled.astype(np.float32), shown)


def working_mask(mask: np.ndarray, lens: Lens, camera: WorkingCamera) -> np.ndarray:
    """[h, w] what a region [H, W] of a photograph covers by half or more in the working image.

    A region too thin for that keeps the pixels that it covers most.
    """
    return half_covered(camera.resample(mask.astype(np.float32), lens) * camera.shown(lens))
