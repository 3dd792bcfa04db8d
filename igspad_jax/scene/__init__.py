"""What a scene is: 3D Gaussians, their colours, their files and where they start from."""

from igspad_jax.scene.gaussians import Gaussians, exposed
from igspad_jax.scene.merging import merged
