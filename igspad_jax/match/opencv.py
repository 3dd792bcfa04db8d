"""Matching with OpenCV's SIFT: RootSIFT, mutual nearest neighbours, an affine check.

RootSIFT is Arandjelovic and Zisserman's (CVPR 2012), the ratio test Lowe's (IJCV 2004).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from igspad_jax.match.features import Features
from igspad_jax.match.matching import Matches, check_images, no_matches

_MIN_AFFINE = 4  # three points fit any affine map exactly; the fourth is the first that can agree


class OpenCVMatcher:
    """RootSIFT matches that agree with one affine map from the reference to the query.

    A smooth object seen from two near views moves almost affinely, and an affine map needs fewer
    matches than a fundamental matrix does on an object with few corners.

    Attributes:
        detector_key: the settings that the keypoints depend on.
    """

    rotation_invariant = True

    def __init__(
        self,
        *,
        max_keypoints: int = 500,
        min_side: int = 400,
        contrast_threshold: float = 0.015,
        ratio: float = 0.8,
        tolerance: float = 0.025,
    ):
        """Sets up the matcher.

        Args:
            max_keypoints: keypoints kept per image, strongest first.
            min_side: images whose longer side is shorter are enlarged by a whole factor.
            contrast_threshold: SIFT's; lower than OpenCV's own 0.04, since flat-painted surfaces
                have few strong corners.
            ratio: a match must be this much nearer than the second nearest descriptor.
            tolerance: allowed distance from the affine map, as a share of the longer side.
        """
        self._sift = cv2.SIFT.create(
            nfeatures=max_keypoints, contrastThreshold=contrast_threshold, edgeThreshold=20.0
        )
        settings = (max_keypoints, min_side, contrast_threshold)
        self.detector_key = f"OpenCV {cv2.__version__} SIFT {settings}"
        self._min_side = min_side
        self._ratio = ratio
        self._tolerance = tolerance

    def prepare(self, images: np.ndarray) -> list[Features]:
        """Computes the features of [n, H, W, 3] images in [0, 1]."""
        return [self._extract(image) for image in check_images(images, "images to match")]

    def match(self, query: Sequence[Features], references: Sequence[Features]) -> list[Matches]:
        """Matches one prepared query against n prepared references."""
        (features,) = query
        return [self._verify(self._nearest(features, r), max(features.size)) for r in references]

    def _extract(self, image: np.ndarray) -> Features:
        size = image.shape[1], image.shape[0]
        factor = max(1, -(-self._min_side // max(size)))
        gray = cv2.cvtColor(np.clip(image, 0.0, 1.0), cv2.COLOR_RGB2GRAY)
        if factor > 1:
            gray = cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        gray = np.clip(255.0 * gray + 0.5, 0.0, 255.0).astype(np.uint8)
        keypoints, descriptors = self._sift.detectAndCompute(gray, None)  # pyright: ignore
        if descriptors is None or not len(keypoints):
            return Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32), size)
        points = (np.array([k.pt for k in keypoints]) + 0.5) / factor
        total = descriptors.sum(axis=1, keepdims=True)
        return Features(points, np.sqrt(descriptors / np.maximum(total, 1e-7)), size)

    def _nearest(self, query: Features, reference: Features) -> Matches:
        if len(query.points) < 2 or len(reference.points) < 2:
            return no_matches()
        similarity = query.descriptors @ reference.descriptors.T
        distance = np.sqrt(np.maximum(2.0 - 2.0 * similarity, 0.0))
        nearest = distance.argmin(axis=1)
        first, second = np.partition(distance, 1, axis=1)[:, :2].T
        rows = np.arange(len(distance))
        keep = (distance.argmin(axis=0)[nearest] == rows) & (first < self._ratio * second)
        scores = 1.0 - first[keep] / second[keep]
        return Matches(query.points[keep], reference.points[nearest[keep]], scores)

    def _verify(self, matches: Matches, size: int) -> Matches:
        if len(matches) < _MIN_AFFINE:
            return no_matches()
        _, inliers = cv2.estimateAffine2D(
            matches.reference_points,
            matches.query_points,
            method=cv2.RANSAC,
            ransacReprojThreshold=self._tolerance * size,
            maxIters=500,
        )
        if inliers is None or inliers.sum() < _MIN_AFFINE:
            return no_matches()
        keep = inliers.ravel().astype(bool)
        return Matches(
            matches.query_points[keep], matches.reference_points[keep], matches.scores[keep]
        )
