"""Makes a small category to try the program on: a brick bird, ray cast from many sides.

    python scripts/make_toy.py --out data/toy

The folder has MAD's layout: normal views with poses in train/good, test images without a defect
and with burrs, missing bricks and stains in test/, exact masks in ground_truth/. Beside MAD's files
it holds the true test poses (test_poses.json) and every defective view without its defect
(test_clean/). The same flags give the same files; a folder that is there already is not made anew.

With --photographs it is the same bird as a person with a phone photographs it, on a table in a
room: photos/ with a COLMAP model in sparse/; true poses of the test photographs in truth.json.
"""

from absl import flags

from igspad_jax.commands.launch import launch
from igspad_jax.errors import InputError
from toy.capture import CaptureConfig, write_capture
from toy.category import ToyConfig, write_toy_category

_DEFAULT = ToyConfig()
_OUT = flags.DEFINE_string("out", None, "Folder of the category to make; needed.")
_SEED = flags.DEFINE_integer(
    "seed", _DEFAULT.seed, "Chooses the bird's shape and colours, the poses and the defects."
)
_SIZE = flags.DEFINE_integer("size", _DEFAULT.size, "Width and height of the images in pixels.")
_TRAIN_VIEWS = flags.DEFINE_integer(
    "train_views", _DEFAULT.train_views, "Number of normal views to train on."
)
_TEST_PER_KIND = flags.DEFINE_integer(
    "test_per_kind",
    _DEFAULT.test_per_kind,
    "Number of test images of each kind: good, Burrs, Missing, Stains.",
)
_PHOTOGRAPHS = flags.DEFINE_bool(
    "photographs", False, "Photograph it on a table; 640 pixels, 40 photographs to train on."
)


def main() -> None:
    """Makes the category that the flags describe."""
    if not _OUT.value:
        raise InputError("--out is missing: give the folder of the category to make")
    if _PHOTOGRAPHS.value:
        capture = CaptureConfig(seed=_SEED.value, test_per_kind=_TEST_PER_KIND.value)
        print(write_capture(_OUT.value, capture))
        return
    config = ToyConfig(
        seed=_SEED.value,
        size=_SIZE.value,
        train_views=_TRAIN_VIEWS.value,
        test_per_kind=_TEST_PER_KIND.value,
    )
    print(write_toy_category(_OUT.value, config))


if __name__ == "__main__":
    launch(main)
