"""Ray casting of the toy: boxes cut by planes, upright cylinders and ellipsoids.

All solids are convex, so that a ray is inside one on a single interval: the intersection of the
intervals of its slabs, planes or quadric. The nearest entry of all solids is what is seen.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

FAR = 1e9
BACKGROUND = -1

_KEY_LIGHT = (-0.42, -0.68, 0.60)
_FILL_LIGHT = (0.80, 0.35, 0.20)


class Solids(struct.PyTreeNode):
    """What there is to see; arrays are padded, the counts say how much of them is meant.

    Attributes:
        box_lo: [B, 3] least corners.
        box_hi: [B, 3] greatest corners.
        box_planes: [B, 2, 4] (normal, offset): a box ends where normal . x > offset.
        box_brick: [B] brick index.
        boxes: count.
        cylinder: [C, 5] (x, y, radius, z least, z greatest) of upright cylinders.
        cylinder_brick: [C] brick index.
        cylinders: count.
        ellipsoid_centre: [E, 3].
        ellipsoid_map: [E, 3, 3] takes an ellipsoid about its centre to the unit sphere.
        ellipsoid_brick: [E] brick index.
        ellipsoids: count.
        colour: [M, 3] linear RGB of every brick.
        paint_brick: [P] brick a paint lies on.
        paint_centre: [P, 3].
        paint_half: [P, 3] half axes or half edges.
        paint_boxed: [P] whether the painted region is a box.
        paint_colour: [P, 3] linear RGB.
        paints: count.
        stain_centre: [S, 3] blobs that together make a stain.
        stain_radius: [S].
        blobs: count.
        stain_colour: [3] linear RGB.
    """

    box_lo: jax.Array
    box_hi: jax.Array
    box_planes: jax.Array
    box_brick: jax.Array
    boxes: jax.Array
    cylinder: jax.Array
    cylinder_brick: jax.Array
    cylinders: jax.Array
    ellipsoid_centre: jax.Array
    ellipsoid_map: jax.Array
    ellipsoid_brick: jax.Array
    ellipsoids: jax.Array
    colour: jax.Array
    paint_brick: jax.Array
    paint_centre: jax.Array
    paint_half: jax.Array
    paint_boxed: jax.Array
    paint_colour: jax.Array
    paints: jax.Array
    stain_centre: jax.Array
    stain_radius: jax.Array
    blobs: jax.Array
    stain_colour: jax.Array


class Hits(struct.PyTreeNode):
    """What the rays of n pixels met, s * s rays each.

    Attributes:
        colour: [n, 3] linear RGB, the mean of a pixel's rays.
        depths: [n, s * s] distance along the ray, 1e9 for the background.
        brick: [n, s * s] brick index, -1 for the background.
        stained: [n, s * s] whether the point is stained.
        point: [n, s * s, 3] world position.
        normal: [n, s * s, 3] outward unit normal.
    """

    colour: jax.Array
    depths: jax.Array
    brick: jax.Array
    stained: jax.Array
    point: jax.Array
    normal: jax.Array


@partial(jax.jit, static_argnames="supersample")
def trace_pixels(
    solids: Solids, viewmat: jax.Array, K: jax.Array, pixels: jax.Array, *, supersample: int
) -> Hits:
    """Casts the rays of [n, 2] pixels (column, row), a regular grid of rays in each.

    Args:
        solids: the scene.
        viewmat: [4, 4] world to camera.
        K: [3, 3] intrinsics.
        pixels: [n, 2] integer pixel coordinates.
        supersample: rays along each side of a pixel.
    """
    steps = (jnp.arange(supersample, dtype=jnp.float32) + 0.5) / supersample
    offsets = jnp.stack(jnp.meshgrid(steps, steps), axis=-1).reshape(1, -1, 2)
    uv = (pixels[:, None].astype(jnp.float32) + offsets).reshape(-1, 2)
    x = (uv[:, 0] - K[0, 2]) / K[0, 0]
    y = (uv[:, 1] - K[1, 2]) / K[1, 1]
    R = viewmat[:3, :3]
    # Written out, since matrix products on some accelerators drop digits.
    direction = x[:, None] * R[0] + y[:, None] * R[1] + R[2]
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    origin = -(R * viewmat[:3, 3:]).sum(axis=0)

    depths, index = _nearest(solids, origin, direction)
    point = origin + depths[:, None] * direction
    brick, normal, edge = _surface(solids, index, point)
    seen = depths < FAR
    albedo, stained = _albedo(solids, brick, point)
    shade = _shade(albedo * edge[:, None], normal, -direction)
    colour = jnp.where(seen[:, None], shade, 1.0)

    n = pixels.shape[0]
    return Hits(
        colour=colour.reshape(n, -1, 3).mean(axis=1),
        depths=depths.reshape(n, -1),
        brick=jnp.where(seen, brick, BACKGROUND).reshape(n, -1),
        stained=(stained & seen).reshape(n, -1),
        point=point.reshape(n, -1, 3),
        normal=normal.reshape(n, -1, 3),
    )


def _nearest(solids: Solids, origin: jax.Array, direction: jax.Array):
    """[r] distance to the nearest solid and its index: boxes, then cylinders, then ellipsoids."""
    d = jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    dx, dy, dz = d[:, 0], d[:, 1], d[:, 2]
    inverse = (1.0 / dx, 1.0 / dy, 1.0 / dz)

    def slab(axis, lo, hi):
        a = (lo - origin[axis]) * inverse[axis]
        b = (hi - origin[axis]) * inverse[axis]
        return jnp.minimum(a, b), jnp.maximum(a, b)

    def nearer(best, enter, leave, index):
        depths, which = best
        hit = (enter < leave) & (enter > 0.0) & (enter < depths)
        return jnp.where(hit, enter, depths), jnp.where(hit, index, which)

    def quadric(a, b, c):
        """Interval where a t^2 + 2 b t + c <= 0, for a > 0; empty where there is none."""
        square = b * b - a * c
        root = jnp.sqrt(jnp.maximum(square, 0.0))
        enter = jnp.where(square > 0.0, (-b - root) / a, FAR)
        return enter, (-b + root) / a

    def box(i, best):
        enter, leave = slab(0, solids.box_lo[i, 0], solids.box_hi[i, 0])
        for axis in (1, 2):
            near, far = slab(axis, solids.box_lo[i, axis], solids.box_hi[i, axis])
            enter, leave = jnp.maximum(enter, near), jnp.minimum(leave, far)
        for k in range(2):
            nx, ny, nz, offset = solids.box_planes[i, k]
            slope = nx * dx + ny * dy + nz * dz
            t = (offset - nx * origin[0] - ny * origin[1] - nz * origin[2]) / jnp.where(
                jnp.abs(slope) < 1e-9, 1e-9, slope
            )
            enter = jnp.where(slope < 0.0, jnp.maximum(enter, t), enter)
            leave = jnp.where(slope < 0.0, leave, jnp.minimum(leave, t))
        return nearer(best, enter, leave, i)

    def cylinder(i, best):
        x, y, radius, bottom, top = solids.cylinder[i]
        px, py = origin[0] - x, origin[1] - y
        enter, leave = quadric(
            dx * dx + dy * dy, px * dx + py * dy, px * px + py * py - radius * radius
        )
        near, far = slab(2, bottom, top)
        index = solids.box_lo.shape[0] + i
        return nearer(best, jnp.maximum(enter, near), jnp.minimum(leave, far), index)

    def ellipsoid(i, best):
        A = solids.ellipsoid_map[i]
        p = (A * (origin - solids.ellipsoid_centre[i])).sum(axis=1)
        q = [A[k, 0] * dx + A[k, 1] * dy + A[k, 2] * dz for k in range(3)]
        enter, leave = quadric(
            q[0] * q[0] + q[1] * q[1] + q[2] * q[2],
            p[0] * q[0] + p[1] * q[1] + p[2] * q[2],
            (p * p).sum() - 1.0,
        )
        index = solids.box_lo.shape[0] + solids.cylinder.shape[0] + i
        return nearer(best, enter, leave, index)

    best = (jnp.full(dx.shape, FAR), jnp.zeros(dx.shape, jnp.int32))
    best = jax.lax.fori_loop(0, solids.boxes, box, best)
    best = jax.lax.fori_loop(0, solids.cylinders, cylinder, best)
    return jax.lax.fori_loop(0, solids.ellipsoids, ellipsoid, best)


def _surface(solids: Solids, index: jax.Array, point: jax.Array):
    """Brick, outward normal and edge darkening at the points on the solids of the given index."""
    B, C = solids.box_lo.shape[0], solids.cylinder.shape[0]

    i = jnp.clip(index, 0, B - 1)
    planes = solids.box_planes[i]
    outside = jnp.concatenate(
        [
            jnp.abs(solids.box_lo[i] - point),
            jnp.abs(solids.box_hi[i] - point),
            jnp.abs((planes[..., :3] * point[:, None]).sum(axis=-1) - planes[..., 3]),
        ],
        axis=1,
    )
    normals = jnp.concatenate(
        [
            jnp.broadcast_to(jnp.concatenate([-jnp.eye(3), jnp.eye(3)]), (len(i), 6, 3)),
            planes[..., :3],
        ],
        axis=1,
    )
    face = jnp.argmin(outside, axis=1)
    box_normal = jnp.take_along_axis(normals, face[:, None, None], axis=1)[:, 0]
    rim = jnp.where(jnp.arange(8) == face[:, None], FAR, outside).min(axis=1)

    j = jnp.clip(index - B, 0, C - 1)
    x, y, radius, bottom, top = jnp.moveaxis(solids.cylinder[j], -1, 0)
    side = jnp.stack([(point[:, 0] - x) / radius, (point[:, 1] - y) / radius, 0.0 * x], axis=1)
    lid = jnp.abs(point[:, 2] - top) < 1e-4
    cylinder_normal = jnp.where(lid[:, None], jnp.array([0.0, 0.0, 1.0]), side)
    height = (point[:, 2] - bottom) / jnp.maximum(top - bottom, 1e-6)

    k = jnp.clip(index - B - C, 0, solids.ellipsoid_map.shape[0] - 1)
    A = solids.ellipsoid_map[k]
    local = (A * (point - solids.ellipsoid_centre[k])[:, None]).sum(axis=2)
    gradient = (A * local[:, :, None]).sum(axis=1)
    length = jnp.linalg.norm(gradient, axis=1, keepdims=True)
    ellipsoid_normal = gradient / jnp.maximum(length, 1e-9)

    of_box, of_cylinder = index < B, index < B + C

    def choose(box, cylinder, ellipsoid):
        shape = (-1,) + (1,) * (box.ndim - 1)
        inner = jnp.where(of_cylinder.reshape(shape), cylinder, ellipsoid)
        return jnp.where(of_box.reshape(shape), box, inner)

    brick = choose(solids.box_brick[i], solids.cylinder_brick[j], solids.ellipsoid_brick[k])
    # Seams and the feet of the studs are darker, as if light reached them less.
    edge = choose(
        0.72 + 0.28 * jnp.clip(rim / 0.012, 0.0, 1.0),
        jnp.where(lid, 1.0, 0.62 + 0.38 * jnp.clip(height, 0.0, 1.0)),
        jnp.ones_like(rim),
    )
    return brick, choose(box_normal, cylinder_normal, ellipsoid_normal), edge


def _albedo(solids: Solids, brick: jax.Array, point: jax.Array):
    """Linear RGB of the points before any light, and which of them are stained."""
    x, y, z = point[:, 0], point[:, 1], point[:, 2]

    def paint(i, which):
        centre, half = solids.paint_centre[i], solids.paint_half[i]
        u, v, w = ((p - c) / h for p, c, h in zip((x, y, z), centre, half, strict=True))
        boxed = jnp.maximum(jnp.maximum(jnp.abs(u), jnp.abs(v)), jnp.abs(w))
        size = jnp.where(solids.paint_boxed[i], boxed, u * u + v * v + w * w)
        inside = (size <= 1.0) & (brick == solids.paint_brick[i])
        return jnp.where(inside, i, which)

    def blob(i, total):
        u, v, w = (p - c for p, c in zip((x, y, z), solids.stain_centre[i], strict=True))
        return total + jnp.exp(-(u * u + v * v + w * w) / solids.stain_radius[i] ** 2)

    which = jax.lax.fori_loop(0, solids.paints, paint, jnp.full(x.shape, -1))
    total = jax.lax.fori_loop(0, solids.blobs, blob, jnp.zeros(x.shape))
    painted = solids.paint_colour[jnp.maximum(which, 0)]
    albedo = jnp.where(which[:, None] >= 0, painted, solids.colour[brick])
    stained = total > 0.5
    return jnp.where(stained[:, None], solids.stain_colour, albedo), stained


def _shade(albedo: jax.Array, normal: jax.Array, towards_eye: jax.Array) -> jax.Array:
    """Lambert under a key and a fill light with a sky, and a mild highlight (Blinn-Phong)."""
    key = jnp.array(_KEY_LIGHT) / jnp.linalg.norm(jnp.array(_KEY_LIGHT))
    fill = jnp.array(_FILL_LIGHT) / jnp.linalg.norm(jnp.array(_FILL_LIGHT))
    sky = 0.42 + 0.16 * normal[:, 2]
    light = sky + 0.58 * jnp.maximum((normal * key).sum(axis=1), 0.0)
    light = light + 0.22 * jnp.maximum((normal * fill).sum(axis=1), 0.0)
    half = key + towards_eye
    half = half / jnp.linalg.norm(half, axis=1, keepdims=True)
    highlight = 0.10 * jnp.maximum((normal * half).sum(axis=1), 0.0) ** 24
    return jnp.clip(albedo * light[:, None] + highlight[:, None], 0.0, 1.0)
