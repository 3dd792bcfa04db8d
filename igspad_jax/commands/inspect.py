"""Inspects photographs of a trained object: is it defective, and where?

    igspad-inspect --object=runs/duck photo.jpg more/photos
    ls photos/*.jpg | igspad-inspect --object=runs/duck --json -

Prints a line for each photograph, or with --json an object a line. With --out=FOLDER it draws each
photograph with its anomaly map and the regions' boxes. The photographs need no pose, but the camera
and the proportions of the training images; larger ones are shrunk.

Exit status: 0 all pass, 1 one fails, 3 none fails but one cannot be judged, 2 an error; a
photograph that cannot be read stops no other.
"""

import sys
from pathlib import Path

from absl import flags

from igspad_jax.commands.launch import CLUSTER_HELP, launch
from igspad_jax.errors import InputError
from igspad_jax.networks.weight_sets import parse_sources


def define_flags() -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "object", None, "Folder of a calibrated object, or of the run that made it; needed."
    )
    flags.DEFINE_string("out", None, "Folder for a picture of each photograph.")
    flags.DEFINE_bool("json", False, "Print an object of JSON a line.")
    flags.DEFINE_float(
        "false_alarm_rate",
        None,
        "Share of normal photographs that may fail; as calibrated if not given.",
        lower_bound=1e-6,
        upper_bound=0.5,
    )
    flags.DEFINE_string(
        "weights", "", "NAME=SOURCE,...: weights that are not where igspad-fetch-weights puts them."
    )
    flags.DEFINE_string("ray", None, CLUSTER_HELP)


def main(*arguments: str) -> None:
    """Inspect the files that the command line names."""
    given = flags.FLAGS
    if not given.object:
        raise InputError("--object is missing: give the folder of a calibrated object")
    if not arguments:
        raise InputError("no photograph is given: name files or folders, or - to read a list")
    sources = parse_sources(given.weights)
    from igspad_jax.commands.photographs import inspect_photographs

    status = inspect_photographs(
        Path(given.object),
        arguments,
        sources,
        rate=given.false_alarm_rate,
        pictures=Path(given.out) if given.out else None,
        as_json=given.json,
        cluster=given.ray,
    )
    sys.exit(status)


def run() -> None:
    """Run the command."""
    define_flags()
    launch(main, arguments="photographs")
