"""The demonstration: the procedural toy at 128 pixels, minutes on a laptop.

make demo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from igspad_jax.pipeline.settings import EvaluateConfig, Settings, config_from
from igspad_jax.train import TrainConfig


def get_config() -> ConfigDict:
    """The settings."""
    train = TrainConfig(
        steps=3000,
        count=8000,
        sh_degree=1,
        sh_every=500,
        evaluate_every=200,
        checkpoint_every=1000,
    )
    return config_from(Settings(train=train, evaluate=EvaluateConfig(breakdown=True)))
