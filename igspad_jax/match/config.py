"""Where the estimation of a pose starts: settings."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Where the inversion starts.

    Attributes:
        matcher: point matcher: "opencv" (SIFT, no weights), "aliked" (ALIKED and LightGlue),
            "superpoint" (SuperPoint and LightGlue), "xfeat" (XFeat and LighterGlue); "auto" is
            "aliked" where its weights are at hand, else "opencv".
        initial: "pnp" lifts matched points to the scene's surface and solves for the pose, and
            takes hypotheses of retrieval besides; "retrieval" compares the image with all training
            views, turned and shifted in the plane; "matches" is the paper's rule, the view with
            most matched points.
        shortlist: training views that are matched with an image, the ones that look most like it;
            0 matches all, as in the paper.
        hypotheses: initial poses an image; the solver goes on with the best.
    """

    matcher: Literal["auto", "opencv", "aliked", "superpoint", "xfeat"] = "auto"
    initial: Literal["pnp", "retrieval", "matches"] = "pnp"
    shortlist: int = 8
    hypotheses: int = 4
