"""Training: the normal object from posed normal images."""

from igspad_jax.train.fit import Fitted, fit, measure, object_from
from igspad_jax.train.trainer import TrainConfig

__all__ = ["Fitted", "TrainConfig", "fit", "measure", "object_from"]
