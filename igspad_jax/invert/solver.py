"""Inversion of a batch of images: either solver behind one interface, hypotheses in, poses out."""

from collections.abc import Callable

import numpy as np

from igspad_jax.invert import descent, pyramid
from igspad_jax.invert.inversion import Inversion
from igspad_jax.invert.sampling import matching_weights
from igspad_jax.normal_object import NormalObject, widened
from igspad_jax.settings import InvertConfig

_AROUND = 0.02  # of the width, by which the object's outline is widened where it alone counts

PointMatcher = Callable[[np.ndarray, np.ndarray], np.ndarray]


def invert(
    model: NormalObject,
    images: np.ndarray,
    initial: np.ndarray,
    config: InvertConfig,
    *,
    match_points: PointMatcher | None = None,
    on_step: Callable[[int], object] | None = None,
) -> Inversion:
    """Estimates the poses of a batch of images by inverting the splatting.

    "levenberg" refines all hypotheses where that is cheap and goes on with the best, see
    `igspad_jax.invert.pyramid`. "adam" is the paper's descent, L = sum |I_r - I_t| W / n^2
    (IGSPAD, equation 4), from the hypothesis that explains the image best as it is.

    Args:
        model: the normal object, for images of this size.
        images: [n, H, W, 3] test images in [0, 1].
        initial: [n, K, 4, 4] viewmats to start from, the likeliest first.
        config: see `InvertConfig`.
        match_points: gives the [M, 2] points of a test image that match a render, from (test
            image, render); needed with `config.sampling`.
        on_step: called with the number of steps done, for progress bars.

    Raises:
        ValueError: if sampling is on and no matcher is given, or shapes do not fit the model.
    """
    if config.sampling and match_points is None:
        raise ValueError("matching point sampling needs `match_points`")
    fits = images.shape[1:] == (model.height, model.width, 3) and len(images) == len(initial) > 0
    if not fits or initial.ndim != 4 or initial.shape[2:] != (4, 4) or not initial.shape[1]:
        raise ValueError(
            f"images {images.shape}, initial {initial.shape}: [n, {model.height}, {model.width}, "
            "3] and [n, K, 4, 4] are expected"
        )

    def sample(viewmats: np.ndarray) -> np.ndarray:
        """[..., H, W] weights of the images at [n, ..., 4, 4] poses."""
        outlines = model.outlines(viewmats)
        if match_points is None or not config.sampling:
            if outlines is None:
                return np.ones((*viewmats.shape[:-2], model.height, model.width), np.float32)
            around = _AROUND * model.width
            flat = outlines.reshape(-1, model.height, model.width)
            return widened(flat, around).astype(np.float32).reshape(outlines.shape)
        renders = model.renders(viewmats)
        weights = [
            matching_weights(
                match_points(images[i[0]], renders[i]),
                width=model.width,
                height=model.height,
                radius=config.sampling_radius * model.width,
                min_points=config.sampling_min_points,
            )
            for i in np.ndindex(viewmats.shape[:-2])
        ]
        weights = np.stack(weights).reshape(renders.shape[:-1])
        return weights if outlines is None else weights * outlines

    on_step = on_step or (lambda _: None)
    if config.solver == "adam":
        return descent.solve(model, images, initial, config.adam, sample, on_step)
    return pyramid.solve(model, images, initial, config.levenberg, sample, on_step)
