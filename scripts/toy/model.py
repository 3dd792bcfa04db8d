"""The toy: a bird of bricks on a stud grid, drawn from a seed.

Grid units while building: 1 stud sideways (x to the toy's left, y to its back), 1 plate upwards
(0.4 studs). The finished toy is scaled into the unit sphere about the origin; it looks along -y.
"""

from dataclasses import dataclass, field

import numpy as np

PLATE = 0.4
STUD_RADIUS = 0.3
STUD_HEIGHT = 0.18
# Neighbours keep this gap, in studs, so that no two faces coincide.
_GAP = 0.012
_RADIUS = 0.98

# sRGB in 0..255
BODY_COLOURS = {
    "red": (196, 30, 34),
    "blue": (20, 92, 190),
    "green": (34, 138, 62),
    "azure": (58, 168, 212),
    "magenta": (166, 40, 112),
    "orange": (232, 112, 20),
    "lime": (150, 194, 40),
    "violet": (104, 70, 156),
}
YELLOW, TAN, ORANGE = (245, 196, 32), (222, 196, 146), (236, 128, 24)
WHITE, BLACK, GREY = (238, 238, 232), (24, 24, 28), (110, 116, 120)


@dataclass(frozen=True)
class Paint:
    """A painted region: the part of a brick inside an ellipsoid or a box.

    Attributes:
        brick: index of the brick.
        centre: [3] centre of the region.
        half: [3] half axes, or half edges.
        boxed: a box if True, an ellipsoid if False.
        colour: sRGB in 0..255.
    """

    brick: int
    centre: np.ndarray
    half: np.ndarray
    boxed: bool
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Figure:
    """Bricks in world units.

    Attributes:
        lo: [n, 3] least corners.
        hi: [n, 3] greatest corners.
        plane: [n, 4] (normal, offset): a brick is its box where normal . x <= offset.
        colour: [n, 3] sRGB in 0..255.
        studs: [m, 2] x and y of the possible studs' axes.
        stud_brick: [m] the brick each stands on.
        stud_size: (radius, height) of a stud.
        paints: painted regions; later ones cover earlier ones.
    """

    lo: np.ndarray
    hi: np.ndarray
    plane: np.ndarray
    colour: np.ndarray
    studs: np.ndarray
    stud_brick: np.ndarray
    stud_size: tuple[float, float]
    paints: tuple[Paint, ...]

    def free_studs(self, present: np.ndarray) -> np.ndarray:
        """[m] which studs stand: their brick is present and no present brick stands on them."""
        top = self.hi[self.stud_brick, 2]
        radius, height = self.stud_size
        margin = np.array([0.5 * radius, 0.5 * radius])
        beside = (self.studs[:, None] + margin > self.lo[None, :, :2]) & (
            self.studs[:, None] - margin < self.hi[None, :, :2]
        )
        level = (self.lo[None, :, 2] < top[:, None] + height) & (
            self.hi[None, :, 2] > top[:, None] + 0.1 * height
        )
        covered = (beside.all(axis=2) & level & present[None]).any(axis=1)
        return present[self.stud_brick] & ~covered


@dataclass
class _Builder:
    boxes: list[np.ndarray] = field(default_factory=list)
    planes: list[np.ndarray] = field(default_factory=list)
    colours: list[tuple[int, int, int]] = field(default_factory=list)
    studs: list[tuple[float, float, int]] = field(default_factory=list)
    paints: list[Paint] = field(default_factory=list)

    def add(self, x, y, z, colour, *, studs=True, slope=None) -> int:
        """Adds a brick over the intervals x, y (studs) and z (plates); returns its index.

        `slope` is ((normal), (point)) in studs: the brick ends at that plane.
        """
        index = len(self.boxes)
        lo = np.array([x[0], y[0], z[0] * PLATE]) + _GAP
        hi = np.array([x[1], y[1], z[1] * PLATE]) - _GAP
        self.boxes.append(np.stack([lo, hi]))
        plane = np.array([0.0, 0.0, 0.0, 1.0])
        if slope is not None:
            normal = np.array(slope[0], float) / np.linalg.norm(slope[0])
            plane = np.append(normal, normal @ np.array(slope[1], float))
        self.planes.append(plane)
        self.colours.append(colour)
        if studs:
            for i in range(int(x[1] - x[0])):
                for j in range(int(y[1] - y[0])):
                    self.studs.append((x[0] + i + 0.5, y[0] + j + 0.5, index))
        return index

    def paint(self, brick, centre, half, colour, *, boxed=False) -> None:
        """Paints a region given in studs."""
        self.paints.append(Paint(brick, np.array(centre), np.array(half), boxed, colour))

    def finish(self, mirror: bool) -> Figure:
        """Centres the toy, scales it into the unit sphere and mirrors it in x if asked."""
        boxes = np.stack(self.boxes)
        middle = 0.5 * (boxes[:, 0].min(axis=0) + boxes[:, 1].max(axis=0))
        corners = np.abs(boxes - middle).max(axis=1) + np.array([0.0, 0.0, STUD_HEIGHT])
        scale = _RADIUS / np.linalg.norm(corners, axis=1).max()
        sign = np.array([-1.0 if mirror else 1.0, 1.0, 1.0])

        def world(points):
            return (np.asarray(points) - middle) * scale * sign

        ends = world(boxes)
        planes = np.stack(self.planes)
        offset = (planes[:, 3] - planes[:, :3] @ middle) * scale
        studs = np.array(self.studs)
        return Figure(
            lo=ends.min(axis=1),
            hi=ends.max(axis=1),
            plane=np.concatenate([planes[:, :3] * sign, offset[:, None]], axis=1),
            colour=np.array(self.colours, float),
            studs=(studs[:, :2] - middle[:2]) * scale * sign[:2],
            stud_brick=studs[:, 2].astype(int),
            stud_size=(STUD_RADIUS * scale, STUD_HEIGHT * scale),
            paints=tuple(
                Paint(p.brick, world(p.centre), p.half * scale, p.boxed, p.colour)
                for p in self.paints
            ),
        )


def make_figure(seed: int) -> Figure:
    """A brick bird that walks and waves one wing; its proportions and colours follow the seed."""
    rng = np.random.default_rng([seed, 0])
    names = list(rng.permutation(list(BODY_COLOURS)))
    body, wing, second, third, scarf, crest = (BODY_COLOURS[name] for name in names[:6])
    builder = _Builder()
    leg = int(rng.integers(3, 5))
    length = int(rng.integers(4, 6))
    layers = int(rng.integers(2, 4))
    base = 1 + leg
    top = base + 3 * layers
    _legs(builder, leg)
    _body(builder, base, layers, length, body, second)
    _folded_wing(builder, top, (wing, second, third))
    _waving_wing(builder, top, int(rng.integers(1, 3)), (wing, second, third))
    _tail(builder, base, length, int(rng.integers(2, 4)), (wing, third, crest))
    head_colour = body if rng.random() < 0.5 else wing
    _scarf(builder, top, scarf, second)
    _head(builder, top + 1, head_colour, int(rng.integers(2, 4)), (crest, third, second))
    return builder.finish(mirror=bool(rng.random() < 0.5))


def _legs(b: _Builder, leg: int) -> None:
    for x, y in ((-2.0, -1.0), (1.0, 1.0)):  # one foot ahead of the other
        b.add((x, x + 1), (y - 2, y + 1), (0, 1), ORANGE)
        b.add((x, x + 1), (y - 0.5, y + 0.5), (1, 1 + leg), YELLOW, studs=False)


def _body(b: _Builder, base, layers, length, body, buttons) -> None:
    back = length - 2
    for i in range(layers):
        z = (base + 3 * i, base + 3 * i + 3)
        belly = b.add((-1, 1), (-2, -1), z, YELLOW if i % 2 == 0 else TAN)
        b.paint(belly, (0.0, -2.0, (z[0] + 1.5) * PLATE), (0.28, 0.3, 0.28), buttons)
        b.add((-2, -1), (-2, -1), z, body)
        b.add((1, 2), (-2, -1), z, body)
        split = 0 if i % 2 == 0 else 1  # seams of successive layers are staggered
        b.add((-2, split), (-1, back), z, body)
        right = b.add((split, 2), (-1, back), z, body)
        if i == layers - 1:
            stripe = (0.5 * (split + 2), back - 0.9, z[1] * PLATE)
            b.paint(right, stripe, (2.0, 0.3, 2.0), WHITE, boxed=True)


def _folded_wing(b: _Builder, top, colours) -> None:
    for i, colour in enumerate(colours):
        z = (top - 1 - 2 * (i + 1), top - 1 - 2 * i)
        feather = b.add((2, 3), (-1 + 0.8 * i, 2.2 + 0.8 * i), z, colour)
        if i == 0:
            stripe = (3.0, -0.2, 0.5 * (z[0] + z[1]) * PLATE)
            b.paint(feather, stripe, (0.5, 0.25, 2.0), WHITE, boxed=True)


def _waving_wing(b: _Builder, top, steps, colours) -> None:
    b.add((-3.5, -2), (-0.5, 1.5), (top - 2, top), colours[0])
    for i in range(steps + 1):
        x = -3.4 - 0.45 * i
        z = (top + 2.5 * i, top + 2.5 * i + 2.5)
        b.add(
            (x - 0.6, x + 0.7),
            (-0.5 + 0.2 * i, 1.5 - 0.2 * i),
            z,
            colours[(i + 1) % 3],
            studs=False,
        )


def _tail(b: _Builder, base, length, feathers, colours) -> None:
    back = length - 2
    for i in range(feathers):
        z = (base + 2 + 2 * i, base + 4 + 2 * i)
        shift = 0.5 * i
        b.add((-1 + shift, 1 + shift), (back + 0.7 * i, back + 1 + 0.7 * i), z, colours[i % 3])


def _scarf(b: _Builder, top, colour, stripe) -> None:
    ring = b.add((-2, 2), (-2.3, 0.7), (top, top + 1), colour, studs=False)
    for x in (-1.4, -0.5, 0.4, 1.3):
        b.paint(ring, (x, -1.0, top * PLATE), (0.18, 5.0, 5.0), stripe, boxed=True)
    end = b.add((0.9, 1.7), (-2.5, -2.05), (top - 4, top), colour, studs=False)
    b.paint(end, (1.3, -2.3, (top - 3.2) * PLATE), (5.0, 5.0, 0.15), stripe, boxed=True)


def _head(b: _Builder, z, colour, feathers, crest) -> None:
    b.add((-1.5, 1.5), (-2, 0), (z, z + 3), colour)
    b.add((-1.5, 1.5), (-2, 0), (z + 3, z + 6), colour)
    b.add((-1.5, 1.5), (0, 1), (z, z + 5), colour)
    for side in (-1.0, 1.0):
        x = 0.85 * side
        eye = b.add((x - 0.5, x + 0.5), (-2.15, -2), (z + 2.6, z + 5.2), WHITE, studs=False)
        # The bird looks to one side, so left and right differ.
        b.paint(eye, (x + 0.12, -2.15, (z + 3.8) * PLATE), (0.3, 0.3, 0.34), BLACK)
        b.paint(eye, (x + 0.22, -2.15, (z + 4.2) * PLATE), (0.1, 0.2, 0.1), WHITE)
    upper = ((0.0, -1.0, 1.6), (0.0, -2.6, (z + 3.0) * PLATE))
    b.add((-0.6, 0.6), (-3.9, -2), (z + 1.2, z + 3), YELLOW, studs=False, slope=upper)
    b.add((-0.5, 0.5), (-3.2, -2), (z + 0.4, z + 1.2), ORANGE, studs=False)
    b.paint(len(b.boxes) - 1, (0.0, -3.2, z * PLATE), (0.3, 0.25, 1.0), GREY)
    for i in range(feathers):
        y = -1.5 + 0.8 * i
        height = 2 + 0.9 * (feathers - i)
        lean = ((0.0, -1.0, 0.5), (0.0, y + 0.15, (z + 6 + 0.7 * height) * PLATE))
        foot = z + 6 if y + 0.8 <= 0.2 else z + 5
        b.add(
            (-0.9, 0.1), (y, y + 0.8), (foot, z + 6 + height), crest[i % 3], studs=False, slope=lean
        )
