"""The demonstration: the procedural toy at 128 pixels, minutes on a laptop.

make demo
"""



from igspad_jax.settings import EvaluateConfig, Settings
from igspad_jax.settings import TrainConfig


def get_config() -> Settings:
    """The settings."""
    train = TrainConfig(
        steps=3000,
        count=8000,
        sh_degree=1,
        sh_every=500,
        evaluate_every=200,
        checkpoint_every=1000,
    )
    return Settings(train=train, evaluate=EvaluateConfig(breakdown=True))
