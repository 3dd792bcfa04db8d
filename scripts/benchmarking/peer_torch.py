"""A plain rasterizer in PyTorch on the CPU: what one would write with tensors and autograd.

The same projection and the same lists as ours, each tile's list padded to the longest of a chunk of
tiles. Images of a batch are drawn one after the other.
"""

import importlib
import os

import numpy as np

from benchmarking.scenes import Scene
from benchmarking.timing import Prepared
from igspad_jax.kernels.compositing.groups import ALPHA_MAX
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT
from igspad_jax.render.projection import BLUR
from igspad_jax.scene.harmonics import C0

_TILE = 8  # twice as fast as 16 on CPUs here, as it is for ours
_ELEMENTS = 2**18  # of the largest temporary: more does not fit the caches
_NEAR = 0.01
_NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh")


def prepare(part: str, scene: Scene) -> Prepared:
    """Makes a part ready; see `benchmarking.programs`."""
    rasterizer = TorchRasterizer(scene)
    if part == "forward":
        return Prepared(rasterizer.images, lambda seen: {"images": seen[[0, -1]]})
    if part == "backward":
        return Prepared(rasterizer.gradient, lambda found: dict(zip(_NAMES, found, strict=True)))
    return Prepared(rasterizer.viewmat_gradient, lambda found: {"viewmats": found[0]})


def peak_bytes() -> None:
    """PyTorch does not tell on CPUs."""


def versions() -> dict[str, str]:
    """Of what was measured."""
    return {"torch": importlib.import_module("torch").__version__}


class TorchRasterizer:
    """One scene, ready to be rendered and differentiated by autograd."""

    def __init__(self, scene: Scene):
        # By name, so that type checkers do not ask for it: it is an optional dependency.
        self._torch = torch = importlib.import_module("torch")
        if hasattr(os, "sched_getaffinity"):
            torch.set_num_threads(len(os.sched_getaffinity(0)))  # as XLA does by itself
        leaves = [getattr(scene.gaussians, name) for name in _NAMES]
        self._parameters = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
        self._viewmats = torch.tensor(scene.viewmats, requires_grad=True)
        self._K = torch.tensor(scene.K)
        self._size, self._tiles = scene.size, -(-scene.size // _TILE)
        self._background = torch.tensor(scene.background)
        self._weights = torch.tensor(scene.weights)

    def images(self) -> np.ndarray:
        """The images [B, size, size, 3]."""
        with self._torch.no_grad():
            return self._torch.stack([self._render(view) for view in self._viewmats]).numpy()

    def gradient(self) -> list[np.ndarray]:
        """The gradient by each of the parameters."""
        return self._gradient(self._parameters)

    def viewmat_gradient(self) -> list[np.ndarray]:
        """The gradient [B, 4, 4] by the viewmats, in a list of its own."""
        return self._gradient([self._viewmats])

    def _gradient(self, by: list) -> list[np.ndarray]:
        sums = [np.zeros(tuple(each.shape), np.float32) for each in by]
        for view in self._viewmats:  # the memory of one image at a time
            loss = (self._render(view) * self._weights).sum()
            for total, part in zip(sums, self._torch.autograd.grad(loss, by), strict=True):
                total += part.numpy()
        return sums

    def _project(self, viewmat):
        """Rows of the visible splats, front to back: mean 2, conic 3, opacity, RGB 3; radii."""
        torch = self._torch
        means, log_scales, quats, opacity_logits, sh = self._parameters
        W, t = viewmat[:3, :3], viewmat[:3, 3]
        fx, fy, cx, cy = (self._K[i] for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        p = means @ W.T + t
        opacities = torch.sigmoid(opacity_logits)
        seen = torch.nonzero((p[:, 2] > _NEAR) & (opacities > ALPHA_CUT))[:, 0]
        # Equal depths in the order of the Gaussians, as in ours.
        order = seen[torch.argsort(p[seen, 2], stable=True)]
        p, opacities = p[order], opacities[order]
        x, y, z = p.unbind(1)
        w, i, j, k = torch.nn.functional.normalize(quats[order], dim=1).unbind(1)
        rotation = torch.stack(
            [
                1 - 2 * (j * j + k * k), 2 * (i * j - w * k), 2 * (i * k + w * j),
                2 * (i * j + w * k), 1 - 2 * (i * i + k * k), 2 * (j * k - w * i),
                2 * (i * k - w * j), 2 * (j * k + w * i), 1 - 2 * (i * i + j * j),
            ], dim=1,
        ).reshape(-1, 3, 3)  # fmt: skip
        axes = (W @ rotation) * torch.exp(log_scales[order])[:, None, :]
        u = (fx / z)[:, None] * (axes[:, 0] - (x / z)[:, None] * axes[:, 2])
        v = (fy / z)[:, None] * (axes[:, 1] - (y / z)[:, None] * axes[:, 2])
        xx, xy, yy = (u * u).sum(1) + BLUR, (u * v).sum(1), (v * v).sum(1) + BLUR
        det = xx * yy - xy * xy
        colours = torch.clamp_min(C0 * sh[order, 0] + 0.5, 0.0)
        means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=1)
        shape = torch.stack([yy / det, -xy / det, xx / det, opacities], dim=1)
        rows = torch.cat([means2d, shape, colours], dim=1)
        reach = 2.0 * torch.log(opacities.detach() / ALPHA_CUT)
        return rows, torch.sqrt(torch.stack([xx, yy], dim=1).detach() * reach[:, None])

    def _lists(self, rows, radii):
        """Splats of all tiles, tile by tile and front to back, with starts and counts."""
        torch = self._torch
        centres, limit = rows[:, :2].detach(), self._tiles
        low = torch.floor((centres - radii) / _TILE).clamp(0, limit).long()
        high = (torch.floor((centres + radii) / _TILE) + 1).clamp(0, limit).long()
        span = high - low
        boxes = span[:, 0] * span[:, 1]
        splat = torch.repeat_interleave(torch.arange(len(rows)), boxes)
        local = torch.arange(len(splat)) - (torch.cumsum(boxes, 0) - boxes)[splat]
        across = span[splat, 0]
        tile = (low[splat, 1] + local // across) * limit + low[splat, 0] + local % across
        order = torch.argsort(tile * len(rows) + splat)
        counts = torch.bincount(tile, minlength=limit * limit)
        return splat[order], torch.cumsum(counts, 0) - counts, counts

    def _render(self, viewmat):
        torch = self._torch
        rows, radii = self._project(viewmat)
        splats, starts, counts = self._lists(rows, radii)
        nothing = torch.zeros(1, rows.shape[1])
        rows = torch.cat([rows, nothing])  # what padding points to
        splats = torch.cat([splats, torch.full((1,), len(rows) - 1)])
        pixels = torch.arange(_TILE) + 0.5
        px, py = pixels.repeat(_TILE), pixels.repeat_interleave(_TILE)
        # Tiles with lists of about one length go together, so that padding stays small.
        by_length = torch.argsort(counts, descending=True)
        done, first = [], 0
        while first < len(by_length):
            longest = int(counts[by_length[first]])
            if longest == 0:
                break
            step = max(_ELEMENTS // (longest * _TILE * _TILE), 1)
            tiles = by_length[first : first + step]
            slot = torch.arange(longest)
            inside = slot < counts[tiles, None]
            index = torch.where(inside, starts[tiles, None] + slot, len(splats) - 1)
            row = rows[splats[index]]  # [tiles, longest, 9]
            x0, y0 = _TILE * (tiles % self._tiles), _TILE * (tiles // self._tiles)
            dx = px - (row[..., 0] - x0[:, None])[..., None]
            dy = py - (row[..., 1] - y0[:, None])[..., None]
            a, b, c, opacity = (row[..., i, None] for i in range(2, 6))
            form = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = opacity * torch.exp(-form)
            alpha = torch.where(alpha < ALPHA_CUT, 0.0, alpha.clamp_max(ALPHA_MAX))
            after = torch.cumprod(1.0 - alpha, dim=1)
            before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
            colour = torch.einsum("tkp,tkc->tpc", alpha * before, row[..., 6:])
            done.append(colour + after[:, -1, :, None] * self._background)
            first += step
        count = sum(len(part) for part in done)
        empty = self._background.expand(len(by_length) - count, _TILE * _TILE, 3)
        image = torch.cat([*done, empty])[torch.argsort(by_length)]
        side = self._tiles
        image = image.reshape(side, side, _TILE, _TILE, 3).transpose(1, 2)
        return image.reshape(side * _TILE, side * _TILE, 3)[: self._size, : self._size]
