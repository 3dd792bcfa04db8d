"""IGSPAD as published, as far as the paper tells: images at their own size, LightGlue against all
training views, the pose of the one with most matches, twists about the camera, 300 Adam steps
weighted by matching points, features of SAM ViT-B and nothing expected of them.

What it does not tell (the sampling's radius and refresh, the pooling's size, whose keypoints) is as
in the defaults; its 100,000 training steps are made for a GPU. Needs
`igspad-fetch-weights --weights=aliked-n16,aliked-lightglue,sam-vit-base`.

    igspad-run --data=MAD --run=runs/paper --config=paper
"""


import dataclasses


from igspad_jax.settings import DetectConfig
from igspad_jax.settings import AdamConfig, InvertConfig
from igspad_jax.settings import MatchConfig
from igspad_jax.settings import Settings
from igspad_jax.settings import TrainConfig


def get_config() -> Settings:
    """The settings."""
    train = dataclasses.replace(
        TrainConfig(), steps=100_000, count=100_000, sh_degree=3, sh_every=1000
    )
    match = MatchConfig(matcher="aliked", initial="matches", shortlist=0, hypotheses=1)
    invert = InvertConfig(
        solver="adam", sampling=True, adam=AdamConfig(pivot="camera", gradient="paper")
    )
    detect = DetectConfig(features="sam-vit-base", pool=0.025, expected_strength=0.0, normalise=0.0)
    return Settings(train=train, match=match, invert=invert, detect=detect)
