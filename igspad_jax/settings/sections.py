"""All settings: a frozen dataclass for each part, whose docstring `--help` prints."""

import dataclasses
from typing import Annotated, Any, Literal

from igspad_jax.errors import InputError
from igspad_jax.networks.weight_sets import check_features, parse_sources
from igspad_jax.settings.fields import Range

Count = Annotated[int, Range(least=1)]
Whole = Annotated[int, Range(least=0)]
Number = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(least=0, most=1)]
Rate = Annotated[float, Range(above=0, most=0.5)]
Degrees = Annotated[float, Range(least=0, most=180)]
Pivot = Literal["object", "camera"]
GradientMode = Literal["autodiff", "analytic", "paper"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read.

    Attributes:
        size: width in pixels at which the program works; 0 keeps the files' size.
        background: RGB in [0, 1] behind transparent pixels and behind the scene.
        held_out: share of the training views that the scene is not fitted to, in blocks of
            neighbouring directions; the threshold of the verdict is calibrated on them.
        limit: test images per kind to look at; 0 takes all.
    """

    size: Whole = 0
    background: tuple[Share, Share, Share] = (1.0, 1.0, 1.0)
    held_out: Annotated[float, Range(least=0, most=0.5)] = 0.2
    limit: Whole = 0

    @property
    def width(self) -> int | None:
        """The width as the readers take it: None keeps the files'."""
        return self.size or None

    @property
    def reading(self) -> Any:
        """The keyword arguments of `load_train` and `load_test`."""
        return {"size": self.width, "background": self.background}


@dataclasses.dataclass(frozen=True)
class WeightsConfig:
    """Where pretrained weights come from.

    Attributes:
        sources: NAME=SOURCE, several separated by commas: a file, a folder or a repository in the
            cache of the Hugging Face hub to read instead of what `igspad-fetch-weights` fetches;
            its --list shows the names.
    """

    sources: str = ""

    def __post_init__(self) -> None:
        """Checks the form.

        Raises:
            InputError: if it is wrong, or a name unknown.
        """
        parse_sources(self.sources)

    @property
    def by_name(self) -> dict[str, str]:
        """The sources by the names of the weights."""
        return parse_sources(self.sources)


@dataclasses.dataclass(frozen=True)
class Rates:
    """Learning rates.

    Attributes:
        means: of the centres at the start, in units of the scene's radius; decays exponentially.
        means_final: the same at the last step.
        log_scales: of the logarithms of the scales.
        quats: of the rotations.
        opacity_logits: of the opacities.
        sh: of the base colour.
        sh_rest: of the view-dependent colour.
        final: all rates but the centres' end at this share of their value, decaying
            exponentially over the second half of the training.
    """

    means: Positive = 1e-3
    means_final: Positive = 1e-5
    log_scales: Positive = 5e-3
    quats: Positive = 2e-3
    opacity_logits: Positive = 2.5e-2
    sh: Positive = 5e-3
    sh_rest: Positive = 1e-3
    final: Positive = 0.1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a scene is trained.

    The three `..._every` should have a large common divisor: the host takes over that often.

    Attributes:
        steps: optimiser steps.
        count: number of Gaussians, fixed.
        coarse: share of the training, from its start, that sees the views at half their width, for
            a fraction of the cost; fine detail comes after.
        batch: views a step, sharded over the devices; their gradients are averaged.
        sh_degree: highest degree of the spherical harmonics, 0 to 3.
        sh_every: steps after which the next degree opens.
        dssim_weight: share of 1 - SSIM in the loss; the rest is L1.
        opacity_decay: weight of the mean opacity in the loss; lets useless Gaussians die.
        scale_decay: weight of the mean scale, in scene radii, in the loss.
        dead_below: opacity below which a Gaussian is relocated.
        relocate_every: steps between relocations.
        relocate_until: share of the training after which relocation ends.
        evaluate_every: steps between measurements on the held-out views.
        checkpoint_every: steps between checkpoints.
        even_light: whether photographs with a structure from motion are brought to one exposure and
            white balance, by the points that they share.
        seed: of every random choice.
        rates: learning rates.
    """

    steps: Count = 4000
    count: Count = 15000
    coarse: Share = 0.0
    batch: Count = 1
    sh_degree: Annotated[int, Range(least=0, most=3)] = 2
    sh_every: Whole = 500
    dssim_weight: Share = 0.2
    opacity_decay: Number = 0.001
    scale_decay: Number = 0.001
    dead_below: Share = 0.005
    relocate_every: Count = 100
    relocate_until: Share = 0.8
    evaluate_every: Count = 500
    checkpoint_every: Count = 500
    even_light: bool = True
    seed: Whole = 0
    rates: Rates = dataclasses.field(default_factory=Rates)


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Where the inversion starts.

    Attributes:
        matcher: point matcher: "opencv" (SIFT, no weights), "aliked" (ALIKED and LightGlue),
            "superpoint" (SuperPoint and LightGlue), "xfeat" (XFeat and LighterGlue); "auto" is
            "aliked" where its weights are at hand, else "opencv".
        initial: "pnp" lifts matched points to the scene's surface and solves for the pose, and
            takes hypotheses of retrieval besides; "retrieval" compares the image with all training
            views, turned and shifted in the plane; "matches" is the paper's rule, the view with
            most matched points.
        shortlist: training views that are matched with an image, the ones that look most like it;
            0 matches all, as in the paper.
        hypotheses: initial poses an image; the solver goes on with the best.
    """

    matcher: Literal["auto", "opencv", "aliked", "superpoint", "xfeat"] = "auto"
    initial: Literal["pnp", "retrieval", "matches"] = "pnp"
    shortlist: Whole = 8
    hypotheses: Count = 4


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    """The paper's descent.

    Attributes:
        steps: optimiser steps.
        rate: learning rate, in radians and object radii.
        late_rate: learning rate from `late_step` on.
        late_step: step at which the rate drops.
        pivot: what rotations turn about: "object", or "camera" as in the paper.
        gradient: "autodiff", "analytic" (the same, by formula), or "paper" (the covariance left
            out of the translation's part).
        sampling_refresh: steps after which renders are matched with the images again.
    """

    steps: Count = 300
    rate: Positive = 0.01
    late_rate: Positive = 0.001
    late_step: Whole = 200
    pivot: Pivot = "object"
    gradient: GradientMode = "autodiff"
    sampling_refresh: Count = 100


@dataclasses.dataclass(frozen=True)
class LevenbergConfig:
    """Levenberg-Marquardt from coarse to fine; the tuples hold one value a level.

    Attributes:
        widths: of the images in pixels; 0 is the images' own width, and none is wider.
        blurs: standard deviations in pixels of the level's blur of images and renders.
        merge_cells: Gaussians are merged within cells of the object's radius over this; 0 merges
            none.
        steps: at most.
        deltas: difference at which its weight has fallen to a half.
        translation_penalties: cost, in units of the image, of moving the object by its radius.
        hypotheses_kept: number of hypotheses of an image, the best ones, that go on after the
            level; 1 at the last.
        extra_turn: degrees by which the first hypothesis is turned about the object to the left,
            right, up and down, for four more hypotheses; 0 adds none.
        readmit_level: level that the first hypothesis enters once more, as it was given: where much
            of the object is missing, coarse levels can move a good one away. 0 is never.
        damping: of the first step of each level.
        tolerance: a step that moves the object by fewer pixels ends the level.
        exposure: whether gain and bias of the object's colours are solved for with the pose.
    """

    widths: tuple[Whole, ...] = (50, 50, 100, 0)
    blurs: tuple[Number, ...] = (4.0, 1.5, 0.5, 0.0)
    merge_cells: tuple[Whole, ...] = (12, 12, 24, 0)
    steps: tuple[Count, ...] = (10, 6, 5, 8)
    deltas: tuple[Positive, ...] = (0.2, 0.05, 0.05, 0.05)
    translation_penalties: tuple[Number, ...] = (0.002, 0.0, 0.0, 0.0)
    hypotheses_kept: tuple[Count, ...] = (2, 1, 1, 1)
    extra_turn: Number = 25.0
    readmit_level: Whole = 2
    damping: Positive = 0.01
    tolerance: Number = 0.05
    exposure: bool = False

    def __post_init__(self) -> None:
        """Check that the settings fit each other.

        Raises:
            InputError: if the tuples differ in length, or there is no level `readmit_level`.
        """
        lengths = {
            f.name: len(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), tuple)
        }
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise InputError(f"setting config.invert.levenberg: levels differ in number ({counts})")
        if self.readmit_level >= len(self):
            raise InputError(
                f"setting config.invert.levenberg.readmit_level: there is no level "
                f"{self.readmit_level}; 0 (never) to {len(self) - 1} are there"
            )

    def __len__(self) -> int:
        """The number of levels."""
        return len(self.widths)


@dataclasses.dataclass(frozen=True)
class InvertConfig:
    """How poses are found.

    Attributes:
        solver: "levenberg" or "adam".
        batch: images inverted at once.
        sampling: whether matching point sampling weights the differences; never at the coarsest
            level, where poses are too rough to match at.
        sampling_radius: k of equation 4, as a share of the image's width.
        sampling_min_points: fewer matches than this and the whole image counts.
        adam: settings of that solver.
        levenberg: settings of that solver.
    """

    solver: Literal["levenberg", "adam"] = "levenberg"
    batch: Count = 8
    sampling: bool = False
    sampling_radius: Number = 0.1
    sampling_min_points: Whole = 12
    adam: AdamConfig = dataclasses.field(default_factory=AdamConfig)
    levenberg: LevenbergConfig = dataclasses.field(default_factory=LevenbergConfig)

    @property
    def steps(self) -> int:
        """Steps an image takes at most."""
        return self.adam.steps if self.solver == "adam" else sum(self.levenberg.steps)


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """How images and renders are compared.

    Attributes:
        features: the extractor, or several joined by "*", whose maps are multiplied; "auto" takes
            the best combination whose weights are at hand. See `igspad_jax.detect.EXTRACTORS`.
        pool: side of the averaging window before the image score, as a share of the width.
        border: distance from the object's outline at which the map counts in full where the scene
            holds its surroundings, as a share of the image's width; it fades in from there.
        expected_strength: how strongly the anomaly that the scene shows on normal images, learnt
            from the training views, discounts the same place in a test image: values are divided
            by 1 + strength x expected / typical. 0 turns it off (the paper's map).
        expected_views: training views, nearest in viewing direction, that tell what to expect; 0
            takes all, whatever the direction.
        normalise: power of the map's own level, the mean of its largest values, by which the image
            score is divided, so that scores are comparable from view to view; 0 turns it off (the
            paper's score).
        dtype: of the factors in the matrix products of SAM, ResNets and CaiT.
    """

    features: str = "auto"
    pool: Share = 0.015
    border: Share = 0.05
    expected_strength: Number = 0.125
    expected_views: Whole = 6
    normalise: Share = 0.5
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check the names of the features.

        Raises:
            InputError: if there are none of a name.
        """
        if self.features != "auto":
            check_features(self.features)


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """How the verdict is decided.

    Attributes:
        false_alarm_rate: share of normal images that may be called defective.
        farthest_roll: degrees by which an image may be rolled about its optical axis from the
            nearest training view; an image that is nearer to upside down than to lying on its side
            is not judged.
    """

    false_alarm_rate: Rate = 0.05
    farthest_roll: Degrees = 135.0


@dataclasses.dataclass(frozen=True)
class InspectorConfig:
    """All settings of an inspector, a section for each of its parts."""

    match: MatchConfig = dataclasses.field(default_factory=MatchConfig)
    invert: InvertConfig = dataclasses.field(default_factory=InvertConfig)
    detect: DetectConfig = dataclasses.field(default_factory=DetectConfig)
    calibrate: CalibrateConfig = dataclasses.field(default_factory=CalibrateConfig)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is measured.

    Attributes:
        sizes: widths in pixels at which peers evaluate, besides the images' own.
        false_alarm_rates: promised rates at which verdicts are counted, besides the one in force.
        breakdown: whether to score, besides, the true poses in place of the estimated ones and
            clean images in place of the renders, where the data has them.
    """

    sizes: tuple[Count, ...] = (224, 400)
    false_alarm_rates: tuple[Rate, ...] = (0.05, 0.1)
    breakdown: bool = False


@dataclasses.dataclass(frozen=True)
class Settings(InspectorConfig):
    """All settings of a run: a section per stage, and one for the data and one for weights."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    weights: WeightsConfig = dataclasses.field(default_factory=WeightsConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)

    @property
    def inspector(self) -> InspectorConfig:
        """The settings of the inspector."""
        return InspectorConfig(self.match, self.invert, self.detect, self.calibrate)
