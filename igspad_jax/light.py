"""Exposure and white balance: evened out between photographs, and matched between two pictures.

A change of exposure multiplies light, and so what a camera stores of it, but for the toe of its
tone curve: a gain a channel explains most of it. Where an offset is solved for besides, haze and
black levels are explained too.
"""

import numpy as np

_LEAST_SHOWN = 3  # photographs that must show a point whose colour is compared
_LEAST_COLOUR = 0.02  # darker points tell no gain
_PRIOR = 20.0  # points: the weight of "no change" against those of a photograph
_ROUNDS = 10
_SCALE = 0.05  # difference at which a pixel's influence on the matched light begins to fall
_GAINS, _OFFSET = (0.6, 1.6), 0.2  # bounds of what is taken for light


def gains_of(colours: list[np.ndarray], points: list[np.ndarray], count: int) -> np.ndarray:
    """[n, 3] gains of photographs, by the colours of the points that they share.

    The logarithms of a point's colours are its own plus each photograph's; medians of both in turn
    (Tukey's median polish) leave moving highlights out.

    Args:
        colours: of each photograph, [m, 3] colours of the points that it shows, in [0, 1].
        points: of each photograph, [m] which points these are.
        count: number of points.
    """
    view = np.repeat(np.arange(len(points)), [len(own) for own in points])
    point = np.concatenate(points)
    values = np.concatenate(colours)
    shown = np.bincount(point, minlength=count)
    kept = (shown[point] >= _LEAST_SHOWN) & (values.min(axis=1) > _LEAST_COLOUR)
    view, point, logs = view[kept], point[kept], np.log(values[kept])
    gains, own = np.zeros((len(points), 3)), np.zeros((count, 3))
    if not len(view):
        return np.exp(gains)
    amount = np.bincount(view, minlength=len(points))[:, None]
    for _ in range(_ROUNDS):
        own = _medians(logs - gains[view], point, count)
        gains = _medians(logs - own[point], view, len(points)) * amount / (amount + _PRIOR)
        gains -= np.average(gains, axis=0, weights=amount[:, 0])
    return np.exp(gains)


def _medians(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """[count, 3] medians of [m, 3] values by their [m] groups; 0 for a group without any."""
    result = np.zeros((count, 3))
    amounts = np.bincount(group, minlength=count)
    firsts = np.cumsum(amounts) - amounts
    filled = amounts > 0
    for channel in range(3):
        ordered = values[np.lexsort((values[:, channel], group)), channel]
        low, high = firsts + (amounts - 1) // 2, firsts + amounts // 2
        middle = 0.5 * (ordered[low[filled]] + ordered[high[filled]])
        result[filled, channel] = middle
    return result


def matched_light(image: np.ndarray, render: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[H, W, 3] a render in the light of an image.

    A gain and an offset a channel, by least squares with Cauchy's weights, so that a defect has
    little influence.

    Args:
        image: [H, W, 3] in [0, 1].
        render: [H, W, 3].
        where: [H, W] pixels that both show.
    """
    if not where.any():
        return render
    result = np.empty_like(render)
    for channel in range(3):
        x, y = (np.asarray(p[where][:, channel], np.float64) for p in (render, image))
        gain, offset = 1.0, 0.0
        for _ in range(_ROUNDS):
            weights = 1.0 / (1.0 + ((gain * x + offset - y) / _SCALE) ** 2)
            mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
            # A prior of a tenth of a level keeps a picture of one colour from any gain.
            spread = np.average((x - mean_x) ** 2, weights=weights) + 1e-4
            slope = np.average((x - mean_x) * (y - mean_y), weights=weights) + 1e-4
            gain = float(np.clip(slope / spread, *_GAINS))
            offset = float(np.clip(mean_y - gain * mean_x, -_OFFSET, _OFFSET))
        result[..., channel] = np.clip(gain * render[..., channel] + offset, 0.0, 1.0)
    return result
