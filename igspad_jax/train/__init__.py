"""Training: the normal object from posed normal images."""

from igspad_jax.train.fit import Fitted, fit, measure, object_from
