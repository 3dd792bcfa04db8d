"""How good verdicts are: false alarms, defects found, images not judged."""

from collections.abc import Mapping, Sequence
from typing import Any

from igspad_jax.data import GOOD, UNLABELLED

VERDICTS = ("PASS", "FAIL", "UNSURE")


def verdict_metrics(verdicts: Mapping[str, Sequence[str]], kinds: Sequence[str]) -> dict[str, Any]:
    """Count the verdicts on each kind of image, at several promised false-alarm rates.

    Args:
        verdicts: n verdicts for each promised rate, by the rate's name.
        kinds: n kinds: "good", "unlabelled", or a kind of defect.

    Returns:
        {rate: {"kinds": {kind: {"PASS": n, "FAIL": n, "UNSURE": n}}, "false_alarm_rate": share of
        the good images that fail, "found": share of the defective ones that fail, "unsure": share
        of all images that are not judged}}, NaN where there are no such images.
    """
    return {rate: _counted(own, kinds) for rate, own in verdicts.items()}


def _counted(verdicts: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    pairs = list(zip(verdicts, kinds, strict=True))
    order = sorted(set(kinds), key=lambda kind: (kind != GOOD, kind == UNLABELLED, kind))
    table = {kind: {v: pairs.count((v, kind)) for v in VERDICTS} for kind in order}
    bad = [kind for kind in order if kind not in (GOOD, UNLABELLED)]
    return {
        "kinds": table,
        "false_alarm_rate": _share(table, [GOOD], "FAIL"),
        "found": _share(table, bad, "FAIL"),
        "unsure": _share(table, order, "UNSURE"),
    }


def _share(table: Mapping[str, Mapping[str, int]], kinds: Sequence[str], verdict: str) -> float:
    counts = [table[kind] for kind in kinds if kind in table]
    total = sum(sum(count.values()) for count in counts)
    return sum(count[verdict] for count in counts) / total if total else float("nan")
