"""What our kernels are to reach on an H100, and whether a benchmark shows it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarking.plan import Key

_OURS, _PEER = "mosaic", "gsplat"
_COUNT, _COUNTS, _SIZE, _BATCHES = 100_000, (100_000, 500_000), 800, (1, 16)
_SPEED, _POSE_SPEED = 0.9, 2.0  # of gsplat's
_RATE = 600.0  # training steps a second
_SECONDS = 1.0  # of an inversion of a batch
REACHED, MISSED, UNMEASURED = "reached", "not reached", "not measured"


class Target(NamedTuple):
    """A target, its state (REACHED, MISSED or UNMEASURED) and the figure it is judged by."""

    text: str
    state: str
    figure: str


class _Cells:
    """Medians of cells; those that disagree with the XLA path count as not measured."""

    def __init__(self, cells: Sequence[Mapping[str, Any]]):
        self._cells = {Key(*(cell[name] for name in Key._fields)): cell for cell in cells}

    def ms(self, program: str, part: str, count: int, batch: int) -> float | None:
        cell = self._cells.get(Key(program, part, count, _SIZE, batch), {"error": ""})
        if "error" in cell or cell.get("agrees") is False:
            return None
        return cell["wall_ms"]["median"]

    def speed(self, part: str, count: int, batch: int) -> float | None:
        """Of ours over the peer's."""
        own, other = (self.ms(program, part, count, batch) for program in (_OURS, _PEER))
        return None if own is None or other is None else other / own

    def agreements(self) -> list[bool]:
        """Of our kernels with the XLA path, wherever they were compared."""
        found = [c.get("agrees") for key, c in self._cells.items() if key.program == _OURS]
        return [agrees for agrees in found if agrees is not None]


def targets(cells: Sequence[Mapping[str, Any]]) -> list[Target]:
    """The five targets, judged by the cells of a benchmark."""
    known = _Cells(cells)
    agreements = known.agreements()
    speeds = [known.speed("backward", count, batch) for count in _COUNTS for batch in _BATCHES]
    pose = known.speed("pose", _COUNT, 16)
    step, inversion = known.ms(_OURS, "train", _COUNT, 1), known.ms(_OURS, "invert", _COUNT, 16)
    rate = None if step is None else 1e3 / step
    seconds = None if inversion is None else inversion / 1e3
    return [
        _judged(
            "kernels agree with XLA (1e-4)",
            all(agreements) if agreements else None,
            f"{sum(agreements)} of {len(agreements)} cells",
        ),
        _judged(
            f"forward + backward at {_SPEED:g} of gsplat's speed or more, at 100k and 500k, 800 px",
            None if None in speeds else min(s for s in speeds if s is not None) >= _SPEED,
            _figures(speeds),
        ),
        _judged(
            f"pose step {_POSE_SPEED:g} times as fast as gsplat's forward + viewmat gradient or "
            "faster, at 100k, 800 px, batch 16",
            None if pose is None else pose >= _POSE_SPEED,
            _figures([pose]),
        ),
        _judged(
            f"training at {_RATE:g} steps a second or more, at 100k, 800 px",
            None if rate is None else rate >= _RATE,
            f"{rate or 0:.0f}",
        ),
        _judged(
            f"16 images inverted in {_SECONDS:g} s together or less, at 100k, 800 px",
            None if seconds is None else seconds <= _SECONDS,
            f"{seconds or 0:.2f} s",
        ),
    ]


def _figures(speeds: Sequence[float | None]) -> str:
    return ", ".join(f"{speed:.2f}" for speed in speeds if speed is not None)


def _judged(text: str, reached: bool | None, figure: str) -> Target:
    if reached is None:
        return Target(text, UNMEASURED, "")
    return Target(text, REACHED if reached else MISSED, figure)
