"""Draws defects of MAD's three kinds where a picture of the toy shows them."""

import numpy as np

from toy.model import Figure
from toy.scene import Change, Ellipsoid, Picture

KINDS = ("Burrs", "Missing", "Stains")

_STAIN_COLOURS = (
    (20, 20, 24), (92, 58, 32), (240, 238, 226), (60, 74, 40), (150, 24, 30),
    (28, 44, 104), (238, 176, 40), (122, 122, 126),
)  # fmt: skip
# Least distance between a stain's colour and its brick's, in sRGB levels.
_COLOUR_STEP = 70.0


def draw_defect(kind: str, figure: Figure, picture: Picture, rng: np.random.Generator) -> Change:
    """A defect at a random point that is seen in the picture of the intact figure.

    Args:
        kind: one of `KINDS`.
        figure: the intact toy.
        picture: its view.
        rng: source of the draw.
    """
    rays = np.argwhere(picture.hits.brick >= 0)
    pixel, ray = rays[rng.integers(len(rays))]
    point, normal = picture.hits.point[pixel, ray], picture.hits.normal[pixel, ray]
    brick = int(picture.hits.brick[pixel, ray])
    draw = {"Burrs": _burrs, "Missing": _missing, "Stains": _stain}[kind]
    return draw(figure, brick, point.astype(np.float64), normal.astype(np.float64), rng)


def _burrs(figure: Figure, brick: int, point, normal, rng) -> Change:
    """Lumps, spikes or fins, fused to the surface; mostly of the brick's colour."""
    shape = rng.integers(3)
    burrs = []
    for i in range(int(rng.integers(1, 4))):
        first, second = _tangents(normal, rng)
        lean = normal + 0.4 * rng.uniform(-1, 1) * first
        axis = lean / np.linalg.norm(lean)
        side = np.cross(axis, second)
        side /= np.linalg.norm(side)
        across = np.cross(side, axis)
        half = (
            rng.uniform(0.045, 0.075, 3),
            np.array([0.03, 0.03, rng.uniform(0.10, 0.16)]),
            np.array([rng.uniform(0.08, 0.12), 0.022, rng.uniform(0.07, 0.11)]),
        )[shape]
        spread = 0.0 if i == 0 else 0.05
        centre = point + spread * rng.normal(size=2) @ np.stack([first, second])
        axes = np.stack([side, across, axis]) * half[:, None]
        burrs.append(Ellipsoid(centre + 0.25 * half[2] * axis, axes))
    colour = figure.colour[brick]
    if rng.random() < 0.4:
        colour = np.clip(colour * rng.uniform(0.7, 1.3) + rng.uniform(-12, 12, 3), 0, 255)
    return Change(burrs=tuple(burrs), burr_colour=colour)


def _missing(figure: Figure, brick: int, point, normal, rng) -> Change:
    """One brick, two or three neighbours, or a piece of a brick."""
    choice = rng.random()
    if choice < 0.2:
        direction = normal + 0.8 * rng.uniform(-1, 1, 3)
        direction /= np.linalg.norm(direction)
        depth = rng.uniform(0.3, 0.6) * 0.5 * (figure.hi[brick] - figure.lo[brick]).min()
        return Change(cut=(brick, np.append(direction, direction @ point - depth)))
    if choice < 0.8:
        return Change(removed=(brick,))
    gap = np.maximum(figure.lo - figure.hi[brick], figure.lo[brick] - figure.hi).max(axis=1)
    near = np.flatnonzero(gap < 0.02)
    near = near[near != brick]
    others = rng.permutation(near)[: int(rng.integers(1, 3))]
    return Change(removed=(brick, *(int(other) for other in others)))


def _stain(figure: Figure, brick: int, point, normal, rng) -> Change:
    """An irregular blob with splashes, of another colour or the brick's own, bleached."""
    first, second = _tangents(normal, rng)
    blobs = []
    for i in range(int(rng.integers(4, 9))):
        offset = 0.0 if i == 0 else 0.055 * rng.normal(size=2) @ np.stack([first, second])
        blobs.append((point + offset, float(rng.uniform(0.025, 0.065) if i else 0.08)))
    own = figure.colour[brick]
    colours = [*_STAIN_COLOURS, 0.45 * own + 0.55 * 200.0]
    distinct = [c for c in colours if np.linalg.norm(np.asarray(c) - own) >= _COLOUR_STEP]
    colour = np.asarray(distinct[rng.integers(len(distinct))], float)
    return Change(blobs=tuple(blobs), stain_colour=colour)


def _tangents(normal: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors at right angles to the normal and to each other, turned at random."""
    helper = np.eye(3)[np.argmin(np.abs(normal))]
    u = np.cross(normal, helper)
    u /= np.linalg.norm(u)
    v = np.cross(normal, u)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
