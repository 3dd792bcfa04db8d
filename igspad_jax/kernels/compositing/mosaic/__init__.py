"""The compositor as Pallas kernels for GPUs; `xla.py` beside this defines what they compute."""

from igspad_jax.kernels.compositing.mosaic.backward import composite_backward
from igspad_jax.kernels.compositing.mosaic.common import SIDE
from igspad_jax.kernels.compositing.mosaic.forward import composite_forward
from igspad_jax.kernels.compositing.mosaic.jacobian import composite_jacobian
from igspad_jax.kernels.compositing.mosaic.normal import composite_gram
