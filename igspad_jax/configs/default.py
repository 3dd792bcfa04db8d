"""The defaults: images at their own size, the paper's inversion, a scene of 30,000 Gaussians.

igspad-run --data=DATA --run=runs/default
"""


import dataclasses


from igspad_jax.settings import Settings
from igspad_jax.settings import TrainConfig


def get_config() -> Settings:
    """The settings."""
    train = dataclasses.replace(TrainConfig(), steps=10_000, count=30_000, sh_degree=3)
    return Settings(train=train)
