"""The defaults: images at their own size, the paper's inversion, a scene of 30,000 Gaussians.

python scripts/run.py --data=DATA --run=runs/default
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from igspad_jax.pipeline.settings import Settings, config_from
from igspad_jax.train import TrainConfig


def get_config() -> ConfigDict:
    """The settings."""
    train = dataclasses.replace(TrainConfig(), steps=10_000, count=30_000, sh_degree=3)
    return config_from(Settings(train=train))
