"""Pinhole cameras, rigid motions and the distances between poses.

Axes are OpenCV's: x right, y down, z forward. A `viewmat` takes world points to camera points,
`p = W x + t`. A pixel (i, j) has its centre at (i + 0.5, j + 0.5). Camera-to-world matrices in
OpenGL axes exist only in files; `viewmat_from_c2w` is the border.

Tangents are ordered `tau = [rho, theta]`, translation first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


class Camera(struct.PyTreeNode):
    """A pinhole camera, or a batch of cameras of one image size.

    Attributes:
        viewmat: [..., 4, 4] world to camera.
        K: [..., 3, 3] intrinsics in pixels.
        width: image width in pixels.
        height: image height in pixels.
    """

    viewmat: jax.Array
    K: jax.Array
    width: int = struct.field(pytree_node=False)
    height: int = struct.field(pytree_node=False)


def viewmat_from_c2w(c2w: np.ndarray) -> np.ndarray:
    """Turns [..., 4, 4] OpenGL camera-to-world matrices into [..., 4, 4] viewmats."""
    return np.linalg.inv(np.asarray(c2w, np.float64) @ _OPENGL_TO_OPENCV)


def c2w_from_viewmat(viewmat: np.ndarray) -> np.ndarray:
    """Turns [..., 4, 4] viewmats into [..., 4, 4] OpenGL camera-to-world matrices."""
    return np.linalg.inv(np.asarray(viewmat, np.float64)) @ _OPENGL_TO_OPENCV


def intrinsics_from_angle(camera_angle_x: float, width: int, height: int) -> np.ndarray:
    """[3, 3] intrinsics of a centred camera with horizontal field of view in radians."""
    focal = 0.5 * width / np.tan(0.5 * camera_angle_x)
    return np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])


def scale_intrinsics(K: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """Intrinsics after resizing the image; pixel centres at +0.5 make this a pure scaling."""
    return np.diag([scale_x, scale_y, 1.0]) @ K


def pixels_of(
    points: np.ndarray, viewmat: np.ndarray, K: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that show [P, 3] points: [P] columns, [P] rows, and [P] whether they are there.

    Columns and rows of points outside the image, or behind the camera, are not to be used.
    """
    p = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = np.maximum(p[:, 2], 1e-9)
    u = np.floor(K[0, 0] * p[:, 0] / z + K[0, 2]).astype(np.int64)
    v = np.floor(K[1, 1] * p[:, 1] / z + K[1, 2]).astype(np.int64)
    return u, v, (u >= 0) & (u < width) & (v >= 0) & (v < height) & (p[:, 2] > 0)


def camera_centre(viewmat: jax.Array) -> jax.Array:
    """[..., 3] world position of the cameras with [..., 4, 4] viewmats."""
    W, t = viewmat[..., :3, :3], viewmat[..., :3, 3]
    return -jnp.einsum("...ji,...j->...i", W, t, precision="highest")


def view_directions(viewmats: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[..., 3] unit vectors from a point [3] towards the cameras with [..., 4, 4] viewmats."""
    offsets = np.linalg.inv(viewmats)[..., :3, 3] - centre
    return offsets / np.linalg.norm(offsets, axis=-1, keepdims=True)


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """[4, 4] viewmat of a camera at `eye` that looks at `target`, rolled by `roll` radians.

    `up` must not be parallel to the viewing direction.
    """
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    down = np.cross(forward, right)
    rotation = np.stack([right, down, forward])
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ rotation
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ eye
    return viewmat


def hat(v: jax.Array) -> jax.Array:
    """[..., 3, 3] cross-product matrices of [..., 3] vectors."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = jnp.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return jnp.stack(rows, axis=-1).reshape(*v.shape[:-1], 3, 3)


def se3_exp(tau: jax.Array) -> jax.Array:
    """[..., 4, 4] rigid motions of [..., 6] twists [rho, theta]; smooth at zero."""
    rho, theta = tau[..., :3], tau[..., 3:]
    sq = jnp.sum(theta * theta, axis=-1)
    small = sq < 1e-4
    safe = jnp.where(small, 1.0, sq)
    angle = jnp.sqrt(safe)
    a = jnp.where(small, 1.0 - sq / 6.0 + sq * sq / 120.0, jnp.sin(angle) / angle)
    b = jnp.where(small, 0.5 - sq / 24.0 + sq * sq / 720.0, (1.0 - jnp.cos(angle)) / safe)
    c = jnp.where(small, 1.0 / 6.0 - sq / 120.0, (angle - jnp.sin(angle)) / (safe * angle))
    W = hat(theta)
    WW = jnp.matmul(W, W, precision="highest")
    eye = jnp.eye(3, dtype=tau.dtype)
    R = eye + a[..., None, None] * W + b[..., None, None] * WW
    V = eye + b[..., None, None] * W + c[..., None, None] * WW
    t = jnp.einsum("...ij,...j->...i", V, rho, precision="highest")
    top = jnp.concatenate([R, t[..., None]], axis=-1)
    bottom = jnp.broadcast_to(
        jnp.array([0.0, 0.0, 0.0, 1.0], dtype=tau.dtype), (*tau.shape[:-1], 1, 4)
    )
    return jnp.concatenate([top, bottom], axis=-2)


def pose_errors(
    estimated: np.ndarray, true: np.ndarray, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation errors between [..., 4, 4] viewmats.

    Args:
        estimated: estimated viewmats.
        true: true viewmats.
        centre: [3] the object's centre in the world.

    Returns:
        Rotation angle between the two in degrees, [...], and the distance between the camera
        centres in per cent of the true camera's distance to `centre`, [...].
    """
    estimated, true = np.asarray(estimated, np.float64), np.asarray(true, np.float64)
    relative = estimated[..., :3, :3] @ np.swapaxes(true[..., :3, :3], -1, -2)
    # atan2 of both parts keeps its digits at 0 and at 180 degrees, where acos loses them.
    axis = np.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        axis=-1,
    )
    trace = np.trace(relative, axis1=-2, axis2=-1)
    degrees = np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), trace - 1.0))
    eye_e = np.linalg.inv(estimated)[..., :3, 3]
    eye_t = np.linalg.inv(true)[..., :3, 3]
    distance = np.linalg.norm(eye_t - centre, axis=-1)
    return degrees, 100.0 * np.linalg.norm(eye_e - eye_t, axis=-1) / distance
