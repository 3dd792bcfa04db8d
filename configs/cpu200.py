"""Real objects on a CPU: 200 pixels, ten minutes of one to train a category, the breakdown too.

python scripts/run.py --data=DATA --run=runs/cpu200 --config=configs/cpu200.py
"""

from __future__ import annotations

from ml_collections import ConfigDict

from igspad_jax.pipeline.settings import DataConfig, EvaluateConfig, Settings, config_from
from igspad_jax.train import TrainConfig


def get_config() -> ConfigDict:
    """The settings."""
    train = TrainConfig(
        steps=8000,
        count=20_000,
        sh_degree=3,
        sh_every=800,
        evaluate_every=1000,
        checkpoint_every=1000,
    )
    return config_from(
        Settings(data=DataConfig(size=200), train=train, evaluate=EvaluateConfig(breakdown=True))
    )
