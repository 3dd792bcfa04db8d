"""The plots of a report, as inline SVG that takes its text colour from the page."""

import io
import itertools
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from igspad_jax.data import GOOD, UNLABELLED
from igspad_jax.report.records import kind_order

_INK = "#010203"  # stands for the page's text colour until the SVG is written
_GOOD, _DEFECTIVE, _FAILED = "#3d8bd4", "#e07b1a", "#d1345b"
_CALIBRATION = "calibration"
_COLOURS = {_CALIBRATION: "#2f9e8f", GOOD: _GOOD, UNLABELLED: "#8a93a0"}
_MOST_POINTS = 150
_numbers = itertools.count()


def score_histogram(
    scores: Sequence[float],
    kinds: Sequence[str],
    calibration: Sequence[float] = (),
    threshold: float = np.inf,
) -> str:
    """Image scores of each kind on a common axis, and the threshold across them.

    Args:
        scores: image scores.
        kinds: the kind of each.
        calibration: image scores of the calibration images, the first row if there are any.
        threshold: score above which an image fails; no line is drawn where it is not finite.
    """
    rows = {_CALIBRATION: list(calibration)} if len(calibration) else {}
    for kind in sorted(set(kinds), key=kind_order):
        rows[kind] = [s for s, own in zip(scores, kinds, strict=True) if own == kind]
    values = np.concatenate(list(rows.values()))
    if np.isfinite(threshold):
        values = np.append(values, threshold)
    # Squared distances span decades: on a linear axis all but the worst fall into one bar.
    logarithmic = bool(values.min() > 0.0 and values.max() > 20.0 * values.min())
    if logarithmic:
        edges = np.geomspace(values.min(), values.max(), 25)
    else:
        edges = np.histogram_bin_edges(values, bins=24)
    figure, axes = _figure(5.6, 0.75 + 0.62 * len(rows), rows=len(rows))
    for i, (axis, (name, own)) in enumerate(zip(axes, rows.items(), strict=True)):
        counts, *_ = axis.hist(own, bins=edges.tolist(), color=_COLOURS.get(name, _DEFECTIVE))
        # Each row has its own height: the calibration images may be many times the others.
        axis.set_ylim(0, 1.08 * float(np.max(counts)))
        axis.set_ylabel(f"{name}\n({len(own)})", rotation=0, ha="right", va="center")
        if logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.tick_params(labelbottom=axis is axes[-1])
        if np.isfinite(threshold):
            axis.axvline(threshold, color=_FAILED, lw=1.2, gid=f"threshold-{i}")
    axes[-1].set_xlabel("image score")
    return _svg(figure, "Histograms of the image scores of each kind")


def loss_curves(losses: Sequence[np.ndarray], failed: Sequence[bool]) -> str:
    """The loss of each inversion over its steps, failed ones in front.

    Args:
        losses: losses of each image, [steps]; the numbers of steps may differ.
        failed: True for gross failures.
    """
    figure, (axis,) = _figure(5.6, 2.9)
    positive = all(np.all(np.asarray(loss) > 0) for loss in losses)
    for loss, bad in sorted(zip(losses, failed, strict=True), key=lambda pair: pair[1]):
        loss = np.asarray(loss, float)
        at = np.unique(np.linspace(0, len(loss) - 1, min(_MOST_POINTS, len(loss))).astype(int))
        axis.plot(
            at,
            loss[at],
            color=_FAILED if bad else _GOOD,
            lw=1.6 if bad else 0.8,
            alpha=1.0 if bad else 0.45,
        )
    if positive:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    return _svg(figure, "Loss of each inversion over its steps")


def psnr_curve(history: Mapping[str, Sequence[float]]) -> str:
    """Held-out PSNR over the training's seconds, or over its steps where no seconds are given.

    Args:
        history: "psnr" in dB, and "seconds" or "step", of one length.
    """
    against = "seconds" if "seconds" in history else "step"
    figure, (axis,) = _figure(5.6, 2.9)
    axis.plot(history[against], history["psnr"], color=_GOOD, lw=1.8, marker="o", ms=3)
    axis.set_xlabel(against)
    axis.set_ylabel("PSNR, dB")
    axis.annotate(
        f"{history['psnr'][-1]:.1f}",
        (history[against][-1], history["psnr"][-1]),
        textcoords="offset points",
        xytext=(-2, 6),
        ha="right",
        color=_INK,
    )
    axis.margins(y=0.15)
    return _svg(figure, f"PSNR of the training over {against}")


def _figure(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=_INK, labelsize=9)
        axis.xaxis.label.set_color(_INK)
        axis.yaxis.label.set_color(_INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_INK)
    return figure, list(axes)


def _svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element that needs nothing from outside the page."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Namespaces are implied inside HTML; ids of several plots must not meet.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    prefix = f"plot{next(_numbers)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace('xlink:href="#', f'href="#{prefix}')
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: [^;\"]*sans-serif[^;\"]*", "font: 9.5px system-ui, sans-serif", svg)
    svg = svg.replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
