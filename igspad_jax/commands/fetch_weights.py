"""Downloads pretrained weights, so that runs need no network.

    igspad-fetch-weights
    igspad-fetch-weights --weights=sam-vit-huge,xfeat
    igspad-fetch-weights --list

What is on this machine already is not downloaded again. Sets that cannot be had are named at the
end, with exit status 1; the others stay. For a machine without a network, copy the folders
~/.cache/igspad_jax ($IGSPAD_JAX_CACHE) and ~/.cache/huggingface/hub ($HF_HUB_CACHE) there; of the
first, runs only need the folder `weights`.
"""

import logging
import sys

from absl import flags

from igspad_jax.commands.launch import launch
from igspad_jax.errors import InputError
from igspad_jax.networks.weight_sets import DEFAULT_SETS, WEIGHT_SETS, weight_set


def define_flags() -> None:
    """Define the flags of the command."""
    flags.DEFINE_list(
        "weights", list(DEFAULT_SETS), "Names of the sets to fetch, separated by commas."
    )
    flags.DEFINE_bool("list", False, "Only shows which sets there are.")


def main() -> None:
    """Fetches the sets that the flags name, or lists all."""
    from igspad_jax.networks.weights import fetch

    if flags.FLAGS.list:
        show()
        return
    logging.getLogger("huggingface_hub").propagate = False  # it prints its lines itself
    failed = {}
    for entry in [weight_set(name) for name in flags.FLAGS.weights]:
        print(f"{entry.name}: {entry.network}; from {entry.source}", flush=True)
        try:
            print(f"  {fetch(entry.name)}\n  licence: {entry.licence}", flush=True)
        except InputError as error:
            failed[entry.name] = error
            print("  failed", flush=True)
    for name, error in failed.items():
        print(f"error: {name}: {error}", file=sys.stderr)
    if failed:
        sys.exit(1)


def show() -> None:
    """Prints a table of all sets."""
    from igspad_jax.networks.weights import is_at_hand

    rows = [("name", "MB", "here", "source", "licence", "network")]
    for entry in WEIGHT_SETS.values():
        size, here = str(entry.megabytes), "yes" if is_at_hand(entry.name) else "no"
        rows.append((entry.name, size, here, str(entry.source), entry.licence, entry.network))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def run() -> None:
    """Run the command."""
    define_flags()
    launch(main)
