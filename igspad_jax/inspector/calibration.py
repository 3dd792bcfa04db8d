"""The threshold of an inspector, from normal images that no part of it has seen.

Conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005): if a new normal
image and the n calibration images are exchangeable, its score is above the k-th largest of theirs
with a probability of k / (n + 1) at most, over all draws of images and of calibration images. For
the n images at hand the rate is a Beta(k, n + 1 - k) variable (Vovk, ACML 2012), which gives the
rate that is kept with 95 % confidence.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from igspad_jax.errors import InputError

_CONFIDENCE = 0.95
_WRONG_DEGREES = 5.0  # error of a pose that is wrong
_ROOM = 1.25  # how much farther than a calibration image a test image may be from the views
_LEAST_COVERED = 20.0  # degrees that are covered about a view in any case


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a normal image says of the inspector.

    Attributes:
        name: of the image.
        score: its image score.
        residual: how badly the render explains it.
        wrong_residual: how badly the render at the pose of another calibration image does.
        degrees: angle to the nearest training view, in viewing direction.
        pose_degrees: error of the estimated pose; None where the true one is not known.
    """

    name: str
    score: float
    residual: float
    wrong_residual: float
    degrees: float
    pose_degrees: float | None = None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What an inspector decides by.

    Attributes:
        scores: [n] image scores of the calibration images, ascending.
        residual_limit: residual above which a pose is doubted.
        farthest: degrees in viewing direction from the nearest training view beyond which an image
            is not covered.
        left_out: names of the calibration images whose own pose is doubted; they have no score.
    """

    scores: tuple[float, ...]
    residual_limit: float
    farthest: float
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of calibration images."""
        return len(self.scores)

    def p_value(self, score: float) -> float:
        """The share of the calibration images, and this one, that score as high."""
        return (1 + sum(other >= score for other in self.scores)) / (1 + len(self.scores))

    def rank(self, rate: float) -> int:
        """Which of the largest scores is the threshold at a false-alarm rate, from 1."""
        return max(1, math.floor(rate * (len(self) + 1) + 1e-9))

    def threshold(self, rate: float) -> float:
        """The score above which an image fails, at a false-alarm rate."""
        return self.scores[-self.rank(rate)] if self.scores else math.inf

    @property
    def typical(self) -> float:
        """The median score of normal images: the level at which a region ends."""
        return float(np.median(self.scores)) if self.scores else math.inf

    def kept_rate(self, rate: float) -> float:
        """The false-alarm rate that the threshold keeps on average: the next below, if there is."""
        return self.rank(rate) / (len(self) + 1)

    def bound(self, rate: float) -> float:
        """The false-alarm rate that the threshold keeps with 95 % confidence."""
        rank = self.rank(rate)
        return float(special.betaincinv(rank, len(self) + 1 - rank, _CONFIDENCE))

    def statement(self, rate: float) -> str:
        """What the calibration images support, in words."""
        count = len(self)
        if not count:
            return "no calibration images: nothing can be judged; give some normal photographs"
        text = (
            f"threshold {self.threshold(rate):.4g} from {count} calibration images: on average "
            f"{self.kept_rate(rate):.1%} of normal images fail ({rate:.1%} asked for), with "
            f"{_CONFIDENCE:.0%} confidence fewer than {self.bound(rate):.1%}"
        )
        if self.kept_rate(rate) > rate:
            text += f"; {rate:.1%} takes at least {math.ceil(1 / rate) - 1} calibration images"
        return text


def calibrate(measured: Sequence[Measured]) -> Calibration:
    """Decide by what normal images say.

    A pose is doubted where the image is explained worse than half-way, by the geometric mean,
    between the worst right pose and the best wrong one: an image whose pose is right may show a
    defect, which leaves more of it unexplained than of any normal image. Where right and wrong
    poses overlap, all that is worse than the worst right one is doubted.

    Args:
        measured: of images that no part of the inspector has seen, posed as any other.

    Raises:
        InputError: if there is none, or none with a right pose.
    """
    if not measured:
        raise InputError("there are no images to calibrate on; give some of normal objects")
    found = [m for m in measured if np.isfinite(m.residual)]
    right = [m for m in found if m.pose_degrees is None or m.pose_degrees < _WRONG_DEGREES]
    if not right:
        raise InputError(
            f"the poses of all {len(measured)} calibration images are wrong: the scene is too poor "
            "to find poses in; give more or better training images"
        )
    # Of images without a true pose some may be wrong: their middle is right.
    sure = [m.residual for m in right if m.pose_degrees is not None]
    worst = max(sure) if sure else 2.0 * float(np.median([m.residual for m in right]))
    best_wrong = min(m.wrong_residual for m in measured)
    limit = max(worst, math.sqrt(worst * best_wrong))
    kept = [m for m in right if m.residual <= limit]
    names = {m.name for m in kept}
    return Calibration(
        scores=tuple(sorted(m.score for m in kept)),
        residual_limit=limit,
        farthest=max(_LEAST_COVERED, _ROOM * max(m.degrees for m in kept)),
        left_out=tuple(m.name for m in measured if m.name not in names),
    )
