"""Pose-agnostic visual inspection by inverting 3D Gaussian Splatting, in JAX.

    import igspad_jax as ig

    inspector = ig.Inspector.load("runs/duck")
    result = inspector(ig.read_image("part.jpg"))
    print(result.verdict, result.p_value, result.regions)

What is named here is public and kept, and so is what the packages `igspad_jax.render` (the
rasterizer) and `igspad_jax.invert` (the pose solvers) name; every other module may change. Names
are imported when they are first used; `__init__.pyi` lists them.
"""

import lazy_loader

__version__ = "0.4.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
