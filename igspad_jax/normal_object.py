"""The normal object: its Gaussians and the camera that images of it are taken with.

Every stage takes it whole: training makes one, matching takes its depth, inversion its pose
gradients, comparison its renders.
"""

import dataclasses
import functools
from typing import cast

import cv2
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from igspad_jax.cameras import Camera, scale_intrinsics
from igspad_jax.data import Lens, WorkingCamera
from igspad_jax.light import matched_light
from igspad_jax.render import Capacity, Render, render_views
from igspad_jax.render.projection import BLUR
from igspad_jax.scene import Gaussians, exposed, merged

_TRUNCATION = 0.2  # of differences between a render and an image; a defect counts no more
_COVERED = 0.7  # coverage by the object alone of a pixel that shows it
_LEAST_SEEN = 0.005  # of an image, that the object must fill to explain it
_TRANSPARENT = -30.0  # logit of an opacity
_PIXEL = 0.1  # pixels^2, about the variance of a pixel's own square


@dataclasses.dataclass(frozen=True)
class Level:
    """The object at one width of its images.

    Attributes:
        gaussians: the scene, merged where the image is small.
        K: [3, 3] intrinsics.
        width: in pixels.
        height: in pixels.
        splat_blur: pixels^2 to add to the splats' covariances: what they were trained with, at the
            full width, and the extent of the larger pixels.
        capacity: of the renders.
    """

    gaussians: Gaussians
    K: jnp.ndarray
    width: int
    height: int
    splat_blur: float
    capacity: Capacity


class NormalObject:
    """The normal object, and the camera that images of it are taken with.

    Attributes:
        gaussians: the scene.
        K: float32 [3, 3] intrinsics of the images.
        width: of the images, in pixels.
        height: of the images, in pixels.
        background: float32 [3] RGB.
        centre: float32 [3] the object's centre in the world.
        radius: float32 [] the object's radius in world units.
        surrounded: whether the scene holds the object's surroundings too; the object is then what
            lies in the ball of this centre and radius.
        capacity: of renders of the whole scene at full width; grown where they ask for more.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        K: np.ndarray,
        *,
        width: int,
        height: int,
        background: np.ndarray,
        centre: np.ndarray,
        radius: float,
        surrounded: bool = False,
        capacity: Capacity,
    ):
        self.gaussians = gaussians
        self.K = jnp.asarray(K, jnp.float32)
        self.width, self.height = width, height
        self.background = jnp.asarray(background, jnp.float32)
        self.centre = jnp.asarray(centre, jnp.float32)
        self.radius = jnp.asarray(radius, jnp.float32)
        self.surrounded = surrounded
        self.capacity = capacity
        self._levels: dict[tuple[int, int], Level] = {}
        self._merged: dict[int, Gaussians] = {}

    @property
    def working_camera(self) -> WorkingCamera:
        """The camera that photographs are resampled to."""
        return WorkingCamera(Lens.pinhole(np.asarray(self.K), self.width, self.height))

    def level(self, width: int, merge_cells: int) -> Level:
        """Return the object at a smaller width.

        Args:
            width: in pixels; 0, or more than the images', is the images' own.
            merge_cells: Gaussians are merged within cells of the radius over this; 0 merges none.
        """
        width = min(width, self.width) or self.width
        key = (width, merge_cells)
        if key not in self._levels:
            height = max(1, round(self.height * width / self.width))
            scale = width / self.width
            scene = self._coarse(merge_cells) if merge_cells else self.gaussians
            K = scale_intrinsics(np.asarray(self.K), scale, height / self.height)
            whole = width == self.width and not merge_cells
            self._levels[key] = Level(
                gaussians=scene,
                K=jnp.asarray(K, jnp.float32),
                width=width,
                height=height,
                splat_blur=BLUR * scale**2 + (_PIXEL if scale < 1.0 else 0.0),
                capacity=self.capacity if whole else Capacity(4 * len(scene)),
            )
        return self._levels[key]

    def _coarse(self, merge_cells: int) -> Gaussians:
        if merge_cells not in self._merged:
            self._merged[merge_cells] = merged(self.gaussians, float(self.radius) / merge_cells)
        return self._merged[merge_cells]

    def camera(self, viewmat: np.ndarray) -> Camera:
        """The camera of an image with a [4, 4] viewmat."""
        return Camera(jnp.asarray(viewmat, jnp.float32), self.K, self.width, self.height)

    def renders(self, viewmats: np.ndarray, exposures: np.ndarray | None = None) -> np.ndarray:
        """[..., H, W, 3] renders in [0, 1].

        Args:
            viewmats: [..., 4, 4] poses.
            exposures: [..., 2] gain and bias of the object's colours; None leaves them alone.
        """
        flat = np.asarray(viewmats).reshape(-1, 4, 4)
        if exposures is None or np.all(exposures == np.array([1.0, 0.0])):
            pictures = np.asarray(self._renders(self.gaussians, flat).colour)
        else:
            lit = zip(flat, np.asarray(exposures).reshape(-1, 2), strict=True)
            pictures = np.concatenate(
                [
                    self._renders(exposed(self.gaussians, *light), view[None]).colour
                    for view, light in lit
                ]
            )
        return pictures.reshape(*np.shape(viewmats)[:-2], *pictures.shape[1:])

    @functools.cached_property
    def alone(self) -> Gaussians:
        """The object without its surroundings: Gaussians outside its ball made transparent."""
        if not self.surrounded:
            return self.gaussians
        away = jnp.linalg.norm(self.gaussians.means - self.centre, axis=1)
        logits = jnp.where(away < self.radius, self.gaussians.opacity_logits, _TRANSPARENT)
        return self.gaussians.replace(opacity_logits=logits)

    def outlines(self, viewmats: np.ndarray) -> np.ndarray | None:
        """[..., H, W] where the object is seen at [..., 4, 4] poses, in front of its surroundings.

        None where the scene holds the object alone: all of an image then tells of it.
        """
        if not self.surrounded:
            return None
        flat = np.asarray(viewmats).reshape(-1, 4, 4)
        # One by one, in the program that renders depths: another one would have to be compiled.
        alphas = [np.asarray(self._renders(self.alone, view[None]).alpha)[0] for view in flat]
        outlines = np.stack([_cleaned(alpha > _COVERED) for alpha in alphas])
        return outlines.reshape(*np.shape(viewmats)[:-2], *outlines.shape[1:])

    def residuals(
        self, images: np.ndarray, renders: np.ndarray, outlines: np.ndarray | None = None
    ) -> np.ndarray:
        """How badly renders explain images, with little regard for how large a difference is.

        The mean of min(|render - image|, 0.2) over the pixels where either shows the object, as a
        share of 0.2: 0 is a perfect explanation, 1 none at all.

        Args:
            images: [..., H, W, 3] in [0, 1].
            renders: [..., H, W, 3] of the object; leading axes broadcast against the images'.
            outlines: [..., H, W] of the object in the renders; the residual is then that of these
                pixels, in the image's light.

        Returns:
            [...] residuals.
        """
        if outlines is not None:
            images = np.broadcast_to(images, renders.shape)
            renders = lit(images, renders, outlines)
            difference = np.minimum(np.abs(renders - images), _TRUNCATION).mean(axis=-1)
            total = outlines.sum(axis=(-2, -1))
            lost = (difference * outlines).sum(axis=(-2, -1))
            enough = total >= _LEAST_SEEN * self.width * self.height
            return np.where(enough, lost / (_TRUNCATION * np.maximum(total, 1)), 1.0)
        background = np.asarray(self.background)

        def shows(pictures):
            return np.abs(pictures - background).max(axis=-1) > 0.5 * _TRUNCATION

        difference = np.minimum(np.abs(renders - images), _TRUNCATION).mean(axis=-1)
        counted = shows(renders) | shows(images)
        total = np.maximum(counted.sum(axis=(-2, -1)), 1)
        return (difference * counted).sum(axis=(-2, -1)) / (_TRUNCATION * total)

    def depth(self, viewmat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[H, W] camera-space z, 0 where nothing is, and [H, W] coverage at a [4, 4] pose."""
        render = self._renders(self.gaussians, np.asarray(viewmat)[None])
        return np.asarray(render.depth)[0], np.asarray(render.alpha)[0]

    def _renders(self, gaussians: Gaussians, viewmats: np.ndarray) -> Render:
        return render_views(
            gaussians,
            viewmats,
            np.asarray(self.K),
            np.asarray(self.background),
            width=self.width,
            height=self.height,
            capacity=self.capacity,
        )


def lit(images: np.ndarray, renders: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] renders in the light of images, matched where the object is seen."""
    flat = [values.reshape(-1, *values.shape[-k:]) for values, k in
            ((images, 3), (renders, 3), (outlines, 2))]  # fmt: skip
    found = [matched_light(*each) for each in zip(*flat, strict=True)]
    return np.stack(found).reshape(renders.shape)


def faded(outlines: np.ndarray, reach: float) -> np.ndarray:
    """[n, H, W] weights of [n, H, W] outlines that rise from 0 at their edge to 1 inside.

    At the edge a render errs by its softness and by the pose; further in, less and less.

    Args:
        outlines: of the object.
        reach: pixels from the edge at which the weight is 1; it begins to rise at a tenth of that.
    """
    away = np.stack([_distances(outline) for outline in outlines])
    return np.clip((away - 0.1 * reach) / max(0.9 * reach, 1e-6), 0.0, 1.0).astype(np.float32)


def widened(outlines: np.ndarray, reach: float) -> np.ndarray:
    """[n, H, W] outlines grown by so many pixels."""
    return np.stack([_distances(~outline) <= reach for outline in outlines])


def _distances(mask: np.ndarray) -> np.ndarray:
    """[H, W] pixels to the nearest that is not in a mask; the image's border is none."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask [H, W], without threads and holes."""
    reach = max(1, round(0.005 * mask.shape[1]))
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.5
    mask = ndimage.binary_closing(np.pad(mask, reach), disc)[reach:-reach, reach:-reach]
    mask = ndimage.binary_opening(mask, disc)
    labels, count = cast(tuple[np.ndarray, int], ndimage.label(mask))
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return np.asarray(ndimage.binary_fill_holes(mask))
