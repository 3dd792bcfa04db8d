"""Pictures of the toy: packs a figure and a defect into solids, and renders them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from toy.model import Figure
from toy.tracer import BACKGROUND, FAR, Hits, Solids, trace_pixels

# Array sizes: one compilation serves every figure and every defect.
_MAX_BOXES, _MAX_CYLINDERS, _MAX_ELLIPSOIDS, _MAX_PAINTS, _MAX_BLOBS = 64, 192, 8, 32, 8
_CHUNK = 4096  # pixels traced at once


@dataclass(frozen=True)
class Ellipsoid:
    """A burr: an ellipsoid with orthogonal half axes in the rows of `axes` [3, 3]."""

    centre: np.ndarray
    axes: np.ndarray


@dataclass(frozen=True)
class Change:
    """What a defect does to a figure; the default does nothing.

    Attributes:
        removed: indices of bricks that are gone.
        cut: a brick and the plane (normal, offset) beyond which it is gone.
        burrs: solids added.
        burr_colour: sRGB in 0..255.
        blobs: (centre, radius) of the blobs that make a stain.
        stain_colour: sRGB in 0..255.
    """

    removed: tuple[int, ...] = ()
    cut: tuple[int, np.ndarray] | None = None
    burrs: tuple[Ellipsoid, ...] = ()
    burr_colour: np.ndarray | tuple[int, int, int] = (0, 0, 0)
    blobs: tuple[tuple[np.ndarray, float], ...] = ()
    stain_colour: np.ndarray | tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Picture:
    """A rendered view.

    Attributes:
        image: float32 [size, size, 3] sRGB in [0, 1]; background exactly 1.
        pixels: [n, 2] (column, row) of the pixels whose rays were cast; no ray of another pixel
            can meet the toy.
        hits: of those pixels, as numpy arrays.
    """

    image: np.ndarray
    pixels: np.ndarray
    hits: Hits


def pack(figure: Figure, change: Change) -> Solids:
    """The solids of a figure with a defect."""
    number = len(figure.lo)
    present = ~np.isin(np.arange(number), change.removed)
    nothing = np.array([0.0, 0.0, 0.0, 1.0])
    planes = np.stack([figure.plane, np.tile(nothing, (number, 1))], axis=1)
    free = figure.free_studs(present)
    radius, height = figure.stud_size
    bottom = figure.hi[figure.stud_brick, 2]
    if change.cut is not None:
        brick, plane = change.cut
        planes[brick, 1] = plane
        foot = np.concatenate([figure.studs, bottom[:, None]], axis=1)
        free &= (figure.stud_brick != brick) | (foot @ plane[:3] <= plane[3] - radius)
    stem = np.stack([np.full(len(free), radius), bottom, bottom + height], axis=1)
    cylinder = np.concatenate([figure.studs, stem], axis=1)[free]
    paints = figure.paints
    # Rows of unit axes over half lengths take the ellipsoid to the unit sphere.
    maps = [e.axes / (e.axes**2).sum(axis=1, keepdims=True) for e in change.burrs]
    colours = np.vstack([figure.colour, change.burr_colour])
    return Solids(
        box_lo=_pad(figure.lo[present], _MAX_BOXES),
        box_hi=_pad(figure.hi[present], _MAX_BOXES),
        box_planes=_pad(planes[present], _MAX_BOXES),
        box_brick=_pad(np.flatnonzero(present), _MAX_BOXES, np.int32),
        boxes=jnp.int32(present.sum()),
        cylinder=_pad(cylinder, _MAX_CYLINDERS),
        cylinder_brick=_pad(figure.stud_brick[free], _MAX_CYLINDERS, np.int32),
        cylinders=jnp.int32(free.sum()),
        ellipsoid_centre=_pad(
            [e.centre for e in change.burrs] or np.zeros((0, 3)), _MAX_ELLIPSOIDS
        ),
        ellipsoid_map=_pad(maps or np.zeros((0, 3, 3)), _MAX_ELLIPSOIDS),
        ellipsoid_brick=jnp.full(_MAX_ELLIPSOIDS, number, jnp.int32),
        ellipsoids=jnp.int32(len(change.burrs)),
        colour=_pad(_linear(colours), _MAX_BOXES + 1),
        paint_brick=_pad([p.brick for p in paints], _MAX_PAINTS, np.int32),
        paint_centre=_pad([p.centre for p in paints], _MAX_PAINTS),
        paint_half=_pad([p.half for p in paints], _MAX_PAINTS),
        paint_boxed=_pad([p.boxed for p in paints], _MAX_PAINTS, np.bool_),
        paint_colour=_pad(_linear([p.colour for p in paints]), _MAX_PAINTS),
        paints=jnp.int32(len(paints)),
        stain_centre=_pad([c for c, _ in change.blobs] or np.zeros((0, 3)), _MAX_BLOBS),
        stain_radius=_pad([r for _, r in change.blobs], _MAX_BLOBS),
        blobs=jnp.int32(len(change.blobs)),
        stain_colour=jnp.asarray(_linear(change.stain_colour), jnp.float32),
    )


def render(
    figure: Figure,
    viewmat: np.ndarray,
    K: np.ndarray,
    size: int,
    *,
    supersample: int,
    change: Change = Change(),
) -> Picture:
    """Renders `size` x `size` pixels; memory is bounded by the chunks that are traced at once."""
    solids = pack(figure, change)
    pixels = _pixels_near(figure, change, viewmat, K, size)
    padded = np.zeros((-(-len(pixels) // _CHUNK) * _CHUNK, 2), np.int32)
    padded[: len(pixels)] = pixels
    camera = jnp.asarray(viewmat, jnp.float32), jnp.asarray(K, jnp.float32)
    parts = []
    for start in range(0, len(padded), _CHUNK):
        chunk = jnp.asarray(padded[start : start + _CHUNK])
        parts.append(jax.device_get(trace_pixels(solids, *camera, chunk, supersample=supersample)))
    hits = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(pixels)], *parts)
    image = np.ones((size, size, 3), np.float32)
    image[pixels[:, 1], pixels[:, 0]] = _encode(hits.colour)
    return Picture(image, pixels, hits)


def changed_mask(clean: Picture, defective: Picture) -> np.ndarray:
    """bool [size, size]: pixels of which at least half of the rays changed.

    A ray changed if it meets another brick or another depth, or now meets a stained point.
    """
    old, new = _frame(clean), _frame(defective)
    changed = (old[0] != new[0]) | (np.abs(old[1] - new[1]) > 1e-3) | new[2]
    return 2 * changed.sum(axis=-1) >= changed.shape[-1]


def _frame(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[size, size, rays] brick, depth and stained of a whole picture."""
    shape = (*picture.image.shape[:2], picture.hits.brick.shape[1])
    where = picture.pixels[:, 1], picture.pixels[:, 0]
    brick, depths = np.full(shape, BACKGROUND, np.int32), np.full(shape, FAR, np.float32)
    stained = np.zeros(shape, bool)
    brick[where], depths[where] = picture.hits.brick, picture.hits.depths
    stained[where] = picture.hits.stained
    return brick, depths, stained


def _pixels_near(
    figure: Figure, change: Change, viewmat: np.ndarray, K: np.ndarray, size: int
) -> np.ndarray:
    """[n, 2] (column, row) of the pixels in the rectangles around the projected solids."""
    lo, hi = figure.lo, figure.hi + np.array([0.0, 0.0, figure.stud_size[1]])
    if change.burrs:
        centre = np.stack([burr.centre for burr in change.burrs])
        reach = np.stack([np.linalg.norm(burr.axes, axis=0) for burr in change.burrs])
        lo, hi = np.vstack([lo, centre - reach]), np.vstack([hi, centre + reach])
    choice = np.indices((2, 2, 2)).reshape(3, 8).T[None].astype(bool)
    corners = np.where(choice, hi[:, None], lo[:, None])
    p = (corners @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
    uv = p[..., :2] / p[..., 2:]
    first = np.clip(np.floor(uv.min(axis=1)) - 1, 0, size).astype(int)
    last = np.clip(np.ceil(uv.max(axis=1)) + 1, 0, size).astype(int)
    near = np.zeros((size, size), bool)
    for (u0, v0), (u1, v1) in zip(first, last, strict=True):
        near[v0:v1, u0:u1] = True
    rows, columns = np.nonzero(near)
    return np.stack([columns, rows], axis=-1).astype(np.int32)


def _pad(rows: ArrayLike, length: int, dtype: DTypeLike = np.float32) -> jax.Array:
    rows = np.asarray(rows)
    if len(rows) > length:
        raise ValueError(f"{len(rows)} rows do not fit into {length}")
    padded = np.zeros((length, *rows.shape[1:]), dtype)
    padded[: len(rows)] = rows
    return jnp.asarray(padded)


def _linear(colour: ArrayLike) -> np.ndarray:
    """Linear RGB of sRGB in 0..255 (IEC 61966-2-1)."""
    c = np.asarray(colour, np.float64) / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _encode(linear: np.ndarray) -> np.ndarray:
    """float32 sRGB in [0, 1] of linear RGB in [0, 1]."""
    c = np.clip(np.asarray(linear, np.float64), 0.0, 1.0)
    encoded = np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1.0 / 2.4) - 0.055)
    return encoded.astype(np.float32)
