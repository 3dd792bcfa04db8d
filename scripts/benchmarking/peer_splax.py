"""splax (JAX and Warp): `splax.render`, https://learnsyslab.github.io/splax.

Written against splax 0.2.3 by reading it, and not yet run: no GPU was at hand. It takes the same
parameters as ours, not activated. It sorts by depths of as few bits as the number of tiles and
images leaves (15 for 16 images of 800 pixels), so that splats nearly as deep as each other may
change places where there are many.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarking.compiling import compiled, device_peak
from benchmarking.scenes import Scene
from benchmarking.timing import Prepared
from igspad_jax.render.projection import NEAR

_NAMES = ("means", "log_scales", "quats", "sh", "opacity_logits")  # in the order of its arguments


def options(scene: Scene) -> dict[str, Any]:
    """The arguments of `render` that are no arrays."""
    (fx, _, cx), (_, fy, cy), _ = scene.K.tolist()
    return {
        "img_shape": (scene.size, scene.size),
        "f": (fx, fy),
        "c": (cx, cy),
        "clip_thresh": NEAR,
    }


def prepare(part: str, scene: Scene) -> Prepared:
    """Makes a part ready; see `benchmarking.programs`."""
    splax = importlib.import_module("splax")
    parameters = tuple(jnp.asarray(getattr(scene.gaussians, name)) for name in _NAMES)
    viewmats, background = jnp.asarray(scene.viewmats), jnp.asarray(scene.background)
    weights = jnp.asarray(scene.weights)

    def images(parameters, viewmats, _=None):
        def one(viewmat):
            return splax.render(
                *parameters, viewmat=viewmat, background=background, **options(scene)
            )[0]

        return jax.vmap(one)(viewmats)

    def loss(parameters, viewmats, weights):
        return jnp.sum(images(parameters, viewmats) * weights)

    def on_host(found: Any) -> dict[str, np.ndarray]:
        if part == "forward":
            return {"images": np.asarray(found)[[0, -1]]}
        if part == "backward":
            return dict(zip(_NAMES, map(np.asarray, found), strict=True))
        return {"viewmats": np.asarray(found)}

    functions = {"forward": images, "backward": jax.grad(loss), "pose": jax.grad(loss, argnums=1)}
    return compiled(jax.jit(functions[part]), parameters, viewmats, weights).prepared(on_host)


def peak_bytes() -> int | None:
    """The largest memory of JAX's arrays; what Warp keeps for its sorting is not in it."""
    return device_peak()


def versions() -> dict[str, str]:
    """Of what was measured."""
    splax, warp = importlib.import_module("splax"), importlib.import_module("warp")
    return {"splax": splax.__version__, "warp": warp.__version__, "jax": jax.__version__}
