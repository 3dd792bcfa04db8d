"""An inspection by the photograph as it was taken: its pixels, its lens, its orientation."""

import dataclasses

import numpy as np

from igspad_jax.data import Lens, WorkingCamera
from igspad_jax.inspector.inspection import Inspection, Region


def as_taken(inspection: Inspection, camera: WorkingCamera, lens: Lens) -> Inspection:
    """Carry an inspection back from the working camera to the lens of its photograph.

    Args:
        inspection: as it was judged.
        camera: the working camera.
        lens: of the photograph, or of a smaller copy of it.
    """
    pose = inspection.pose
    viewmat = camera.pose_back(pose.viewmat, lens).astype(np.float32)
    return dataclasses.replace(
        inspection,
        anomaly_map=camera.resample_back(inspection.anomaly_map, lens),
        regions=tuple(_region(region, camera, lens) for region in inspection.regions),
        pose=dataclasses.replace(pose, viewmat=viewmat),
    )


def _region(region: Region, camera: WorkingCamera, lens: Lens) -> Region:
    """A region by pixels of the photograph; the box holds the bent outline of its own."""
    left, top, width, height = region.box
    share = np.linspace(0.0, 1.0, 9)
    across, down = left + share * width, top + share * height
    outline = np.concatenate(
        [np.stack(np.broadcast_arrays(across, y), axis=1) for y in (top, top + height)]
        + [np.stack(np.broadcast_arrays(x, down), axis=1) for x in (left, left + width)]
    )
    places = camera.pixels_back(outline, lens)
    size = np.array([lens.width, lens.height])
    # Rounding first, for a boundary that is one but for its last digit.
    first = np.clip(np.floor(np.round(places.min(axis=0), 3)), 0, size - 1).astype(int)
    last = np.clip(np.ceil(np.round(places.max(axis=0), 3)), first + 1, size).astype(int)
    scale = np.prod(lens.focal) / np.prod(camera.lens.focal)
    (x, y), (w, h) = first.tolist(), (last - first).tolist()
    peak = np.round(camera.pixels_back(np.array([region.pixel]), lens)[0], 3)
    return dataclasses.replace(
        region,
        area=max(1, round(region.area * float(scale))),
        box=(x, y, w, h),
        pixel=(float(peak[0]), float(peak[1])),
    )
