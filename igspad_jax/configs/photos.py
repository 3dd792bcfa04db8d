"""Photographs of a real object, with its surroundings: 400 pixels.

igspad-run --data=FOLDER --run=runs/object --config=photos
"""



from igspad_jax.settings import DataConfig, Settings
from igspad_jax.settings import TrainConfig


def get_config() -> Settings:
    """The settings."""
    train = TrainConfig(
        steps=2000,
        count=20_000,
        coarse=0.6,
        sh_degree=3,
        sh_every=400,
        evaluate_every=1000,
        checkpoint_every=1000,
    )
    return Settings(data=DataConfig(size=400), train=train)
