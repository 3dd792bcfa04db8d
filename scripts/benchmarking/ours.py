"""This project's own parts, on the compositor that IGSPAD_JAX_COMPOSITOR names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarking import stages
from benchmarking.compiling import Compiled, compiled, device_peak
from benchmarking.roofline import TILE_SIDE, Work
from benchmarking.scenes import RADIUS, Scene, with_degree
from benchmarking.timing import Prepared
from igspad_jax.cameras import Camera
from igspad_jax.invert.equations import Problem
from igspad_jax.invert.levenberg import refine
from igspad_jax.kernels.compositing.backend import resolve
from igspad_jax.kernels.compositing.mosaic import SIDE
from igspad_jax.kernels.compositing.tiles import TILE, tile_lists
from igspad_jax.render import Capacity, render, render_with_jacobian
from igspad_jax.render.projection import BLUR, project
from igspad_jax.settings import TrainConfig
from igspad_jax.train.losses import ssim
from igspad_jax.train.trainer import Views, initial_state, segment

_STEPS = 10  # of training in one compiled program; the trainer takes 100
_STRIDE = 8  # pixels of the Jacobian that are compared


def prepare(part: str, scene: Scene) -> Prepared:
    """Makes a part ready; see `benchmarking.programs`."""
    if part in stages.STAGES:
        return stages.STAGES[part](with_degree(scene, TrainConfig().sh_degree))
    return _PARTS[part](scene)


def peak_bytes() -> int | None:
    """The device's largest memory in use up to now, where it tells."""
    return device_peak()


def versions() -> dict[str, str]:
    """Of what was measured."""
    return {"jax": jax.__version__}


def work(scene: Scene) -> Work:
    """What a scene's images ask for, counted."""
    capacity = _capacity(scene, TILE_SIDE)
    exact = _listed(scene, TILE_SIDE, capacity.slots)[1]
    return Work(
        gaussians=len(scene.gaussians),
        coefficients=scene.gaussians.sh.shape[1],
        trained_coefficients=(TrainConfig().sh_degree + 1) ** 2,
        batch=len(scene.viewmats),
        pixels=scene.size**2,
        pairs=int(exact.sum()),
    )


def viewmat_gradient(scene: Scene) -> np.ndarray:
    """[B, 4, 4] gradient by the viewmats, which is what peers call a pose step."""

    def make(slots: int) -> Compiled:
        function = jax.grad(_loss(scene, slots), argnums=1, has_aux=True)
        return _compiled(function, scene)

    return np.asarray(_fitted(scene, make, lambda found: found[1]).run()[0])


def _listed(scene: Scene, side: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """[B] slots asked for, and [B] pairs that are left after the exact test, if there are slots."""

    @jax.jit
    def listed(viewmats, gaussians):
        def one(viewmat):
            splats = project(gaussians, _camera(scene, viewmat), sh_degree=0)
            lists = tile_lists(
                splats.means2d,
                splats.conics,
                splats.opacities,
                splats.depths,
                splats.radii,
                width=scene.size,
                height=scene.size,
                capacity=slots,
                side=side,
            )
            return lists.pairs, jnp.sum(lists.counts)

        return jax.lax.map(one, viewmats)

    asked, exact = listed(scene.viewmats, scene.gaussians)
    return np.asarray(asked), np.asarray(exact)


def _capacity(scene: Scene, side: int) -> Capacity:
    """Room for the pairs of tiles of a side, with the usual headroom."""
    capacity = Capacity()
    capacity.grow(_listed(scene, side, 1)[0])
    return capacity


def _camera(scene: Scene, viewmat: jax.Array) -> Camera:
    return Camera(viewmat, jnp.asarray(scene.K), scene.size, scene.size)


def _drawn(scene: Scene, draw: Callable, slots: int, gaussians, viewmats):
    """All images of a scene by `draw`, a function of igspad_jax.render."""

    def one(viewmat):
        background = jnp.asarray(scene.background)
        camera = _camera(scene, viewmat)
        return draw(gaussians, camera, background, sh_degree=0, capacity=slots)

    return jax.vmap(one)(viewmats)


def _loss(scene: Scene, slots: int) -> Callable:
    """The loss of all images, and the slots asked for; see `_compiled` for its arguments."""

    def loss(gaussians, viewmats, weights):
        seen = _drawn(scene, render, slots, gaussians, viewmats)
        return jnp.sum(seen.colour * weights), seen.pairs

    return loss


def _compiled(function: Callable, scene: Scene) -> Compiled:
    """A function of Gaussians, viewmats and the images' weights, for the scene's."""
    arrays = (scene.gaussians, scene.viewmats, scene.weights)
    return compiled(jax.jit(function), *jax.tree.map(jnp.asarray, arrays))


def _fitted(
    scene: Scene, make: Callable[[int], Compiled], pairs_of: Callable[[Any], Any]
) -> Compiled:
    """What `make` compiles for a number of slots, with as many as it asks for."""

    def attempt(slots: int) -> tuple[Compiled, Any]:
        program = make(slots)
        return program, pairs_of(program.run())

    side = TILE if resolve(None) == "xla" else SIDE
    return _capacity(scene, side).run(attempt, lambda made: made[1])[0]


def _shown(scene: Scene, draw: Callable, what: str) -> Compiled:
    """An array of the images by `draw`, by its name in what `draw` returns."""

    def make(slots: int) -> Compiled:
        def function(gaussians, viewmats, _):
            seen = _drawn(scene, draw, slots, gaussians, viewmats)
            return getattr(seen, what), seen.pairs

        return _compiled(function, scene)

    return _fitted(scene, make, lambda seen: seen[1])


def _forward(scene: Scene) -> Prepared:
    program = _shown(scene, render, "colour")
    return program.prepared(lambda seen: {"images": np.asarray(seen[0])[[0, -1]]})


def _backward(scene: Scene) -> Prepared:
    def make(slots: int) -> Compiled:
        return _compiled(jax.grad(_loss(scene, slots), has_aux=True), scene)

    program = _fitted(scene, make, lambda found: found[1])
    return program.prepared(lambda found: jax.tree.map(np.asarray, vars(found[0])))


def _jacobian(scene: Scene) -> Prepared:
    program = _shown(scene, render_with_jacobian, "jacobian")
    return program.prepared(lambda seen: {"jacobian": np.asarray(seen[0][0, ::_STRIDE, ::_STRIDE])})


def _pose(scene: Scene) -> Prepared:
    """One round of the solver's loop: normal equations of a render, and the solve."""
    count = len(scene.viewmats)
    problem = Problem(
        gaussians=jax.tree.map(jnp.asarray, scene.gaussians),
        K=jnp.asarray(scene.K),
        background=jnp.asarray(scene.background),
        centre=jnp.zeros(3),
        radius=jnp.float32(RADIUS),
        splat_blur=jnp.float32(BLUR),
        blur=jnp.float32(0.0),
        delta=jnp.float32(0.05),
        damping=jnp.float32(0.01),
        translation_penalty=jnp.float32(0.0),
        # The solver's first round looks at where it is given, and counts as no step.
        steps=jnp.int32(0),
        tolerance=jnp.float32(0.05),
    )
    arguments = (
        jnp.asarray(scene.viewmats),
        jnp.tile(jnp.array([1.0, 0.0]), (count, 1)),
        jnp.asarray(scene.images),
        jnp.ones((count, scene.size, scene.size)),
        problem,
    )

    def make(slots: int) -> Compiled:
        return compiled(
            refine,
            *arguments,
            sh_degree=0,
            capacity=slots,
            blurred=False,
            with_exposure=False,
            longest=0,
        )

    program = _fitted(scene, make, lambda found: found.pairs)
    return program.prepared(
        lambda found: {"cost": np.asarray(found.poses.cost), "gram": np.asarray(found.poses.gram)}
    )


def _train(scene: Scene) -> Prepared:
    """The trainer's own steps, from the scene as it is towards images of noise."""
    count = len(scene.viewmats)
    config = TrainConfig(count=len(scene.gaussians), batch=count)
    gaussians = jax.tree.map(jnp.asarray, with_degree(scene, config.sh_degree).gaussians)
    state = initial_state(gaussians, config, RADIUS)
    views = Views(
        images=jnp.asarray(scene.images),
        viewmats=jnp.asarray(scene.viewmats),
        K=jnp.asarray(scene.K),
        background=jnp.asarray(scene.background),
    )
    order = jnp.tile(jnp.arange(count), (_STEPS, 1))

    def make(slots: int) -> Compiled:
        return compiled(segment, state, views, order, config=config, radius=RADIUS, capacity=slots)

    program = _fitted(scene, make, lambda found: found[2])
    return program.prepared(lambda found: {"loss": np.asarray(found[1])[None]}, per=_STEPS)


def _dssim(scene: Scene) -> Prepared:
    def loss(seen, images):
        return jnp.sum(jax.vmap(lambda a, b: 1.0 - ssim(a, b))(seen, images))

    images = jnp.asarray(scene.images)
    program = compiled(jax.jit(jax.value_and_grad(loss)), images[:, ::-1], images)
    return program.prepared(lambda found: {"loss": np.asarray(found[0])[None]})


_PARTS = {
    "forward": _forward,
    "backward": _backward,
    "pose": _pose,
    "jacobian": _jacobian,
    "train": _train,
    "dssim": _dssim,
}
