"""Where accuracy is lost: the same figures with true poses, and with clean images for renders."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from igspad_jax.data import TestImage, read_image
from igspad_jax.evaluate import NATIVE, evaluate_maps
from igspad_jax.files import digest_of, sha256
from igspad_jax.inspector import Inspector
from igspad_jax.pipeline.folder import ImageRecord, RunFolder
from igspad_jax.pipeline.inspecting import Keys
from igspad_jax.progress import tracked

ESTIMATED, TRUE_POSE, CLEAN_IMAGE = "estimated", "true pose", "clean image"


def break_down(
    name: str,
    folder: RunFolder,
    inspector: Inspector,
    keys: Keys,
    tests: Sequence[TestImage],
    records: Mapping[str, ImageRecord],
    masks: Sequence[np.ndarray | None],
) -> dict[str, Any]:
    """Evaluate the variants that the data can give.

    With clean images in place of the renders there are no good images: each would be compared with
    itself, and be told apart for that alone. So that variant has pixel figures only.

    Args:
        name: of the category.
        folder: its run folder, where the variants' maps are kept.
        inspector: the inspector.
        keys: what its results are made from.
        tests: the labelled test images.
        records: the results at the estimated poses.
        masks: regions of the defects.

    Returns:
        Per variant {"overall": group, "kinds": {kind: group}}, see `evaluate_maps`.
    """
    variants = {
        ESTIMATED: list(range(len(tests))),
        TRUE_POSE: [i for i, test in enumerate(tests) if test.viewmat is not None],
        CLEAN_IMAGE: [i for i, test in enumerate(tests) if test.defective and test.clean_path],
    }
    missing = [variant for variant, chosen in variants.items() if not chosen]
    if missing:
        logging.warning(
            "%s: the breakdown goes without %s, which the data lacks", name, " and ".join(missing)
        )
    result = {}
    for variant, chosen in variants.items():
        if not chosen:
            continue
        own = [tests[i] for i in chosen]
        maps = [
            _map(variant, folder, inspector, keys, test, records[test.name])
            for test in tracked(own, f"{variant} {name}", "image")
        ]
        scores = np.array([inspector.score(anomaly_map) for anomaly_map in maps])
        labels = np.array([test.defective for test in own])
        kinds = [test.kind for test in own]
        figures = evaluate_maps(maps, [masks[i] for i in chosen], labels, scores, kinds, sizes=())
        result[variant] = figures["sizes"][NATIVE]
    return result


def _map(
    variant: str,
    folder: RunFolder,
    inspector: Inspector,
    keys: Keys,
    test: TestImage,
    record: ImageRecord,
) -> np.ndarray:
    """The anomaly map of an image in a variant, from the folder if it is there."""
    if variant == ESTIMATED:
        return folder.inspected.load_map(test.name)
    results, pose = folder.breakdown(variant), record.pose
    assert pose is not None
    beside = None
    if variant == TRUE_POSE:
        assert test.viewmat is not None
        beside = test.viewmat.tolist()
        pose = dataclasses.replace(pose, viewmat=np.asarray(test.viewmat, np.float32))
    elif test.clean_path:
        beside = sha256(test.clean_path)
    key = digest_of([record.pose_key, keys.comparison, beside])
    if results.load(test.name, key, key).map_key:
        return results.load_map(test.name)

    def read(path):
        return inspector.read(read_image(path), str(path))

    photograph = read(test.path)
    if variant == TRUE_POSE:
        (anomaly_map,) = inspector.compare([photograph], [pose], inspector.render([pose]))
    else:  # no scene, so nothing that it gets wrong
        images = (p.image[None] for p in (photograph, read(test.clean_path)))
        (anomaly_map,) = inspector.comparison.anomaly_maps(*images)
    results.save(test.name, ImageRecord(key, pose, key), anomaly_map)
    return anomaly_map
