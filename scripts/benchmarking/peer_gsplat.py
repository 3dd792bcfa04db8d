"""gsplat (PyTorch and CUDA): `gsplat.rasterization`, https://docs.gsplat.studio.

Written against gsplat 1.5.3 by reading it, and not yet run: no GPU was at hand. Its conventions
are ours: quaternions wxyz of any length, viewmats world to camera in OpenCV axes, pixel centres at
+0.5, 0.3 pixels^2 added to the splats, alpha cut at 1/255, colours of spherical harmonics plus a
half, held above zero. Scales and opacities are given activated; the activations are timed with the
rest, as in ours.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarking.scenes import Scene
from benchmarking.timing import Prepared
from igspad_jax.render.projection import BLUR, NEAR

_DEVICE = "cuda"
_NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh")


def options(scene: Scene) -> dict[str, Any]:
    """The arguments of `rasterization` that are no tensors."""
    return {
        "width": scene.size,
        "height": scene.size,
        "near_plane": NEAR,
        "eps2d": BLUR,
        "sh_degree": 0,
        # The whole object is in sight, where gsplat calls this the faster way.
        "packed": False,
    }


def prepare(part: str, scene: Scene) -> Prepared:
    """Makes a part ready; see `benchmarking.programs`."""
    # By name, so that type checkers do not ask for it: it is an optional dependency.
    torch, gsplat = importlib.import_module("torch"), importlib.import_module("gsplat")
    torch.cuda.reset_peak_memory_stats()

    def tensor(array: np.ndarray):
        return torch.tensor(array, device=_DEVICE)

    parameters = [tensor(getattr(scene.gaussians, name)) for name in _NAMES]
    viewmats, weights = tensor(scene.viewmats), tensor(scene.weights)
    Ks = tensor(np.repeat(scene.K[None], len(scene.viewmats), axis=0))
    backgrounds = tensor(np.repeat(scene.background[None], len(scene.viewmats), axis=0))

    def images():
        means, log_scales, quats, opacity_logits, sh = parameters
        return gsplat.rasterization(
            means=means,
            quats=quats,
            scales=torch.exp(log_scales),
            opacities=torch.sigmoid(opacity_logits),
            colors=sh,
            viewmats=viewmats,
            Ks=Ks,
            backgrounds=backgrounds,
            **options(scene),
        )[0]

    def forward():
        with torch.no_grad():
            return images()

    def gradient(by: list) -> Callable[[], Any]:
        for each in by:
            each.requires_grad_()
        return lambda: torch.autograd.grad((images() * weights).sum(), by)

    def waiting(work: Callable[[], Any]) -> Callable[[], Any]:
        def run():
            result = work()
            torch.cuda.synchronize()
            return result

        return run

    def on_host(each) -> np.ndarray:
        return each.cpu().numpy()

    if part == "forward":
        return Prepared(waiting(forward), lambda seen: {"images": on_host(seen[[0, -1]])})
    if part == "backward":
        return Prepared(
            waiting(gradient(parameters)),
            lambda found: dict(zip(_NAMES, map(on_host, found), strict=True)),
        )
    return Prepared(waiting(gradient([viewmats])), lambda found: {"viewmats": on_host(found[0])})


def peak_bytes() -> int:
    """The largest memory that PyTorch's tensors took since a part was made ready."""
    return importlib.import_module("torch").cuda.max_memory_allocated()


def versions() -> dict[str, str]:
    """Of what was measured."""
    torch, gsplat = importlib.import_module("torch"), importlib.import_module("gsplat")
    return {"gsplat": gsplat.__version__, "torch": torch.__version__, "cuda": torch.version.cuda}
