"""Real objects on a CPU: 200 pixels, ten minutes of one to train a category, the breakdown too.

igspad-run --data=DATA --run=runs/cpu200 --config=cpu200
"""



from igspad_jax.settings import DataConfig, EvaluateConfig, Settings
from igspad_jax.settings import TrainConfig


def get_config() -> Settings:
    """The settings."""
    train = TrainConfig(
        steps=8000,
        count=20_000,
        sh_degree=3,
        sh_every=800,
        evaluate_every=1000,
        checkpoint_every=1000,
    )
    return Settings(data=DataConfig(size=200), train=train, evaluate=EvaluateConfig(breakdown=True))
