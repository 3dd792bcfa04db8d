"""One photograph in, one verdict out: the path of an image, from its pixels to PASS or FAIL."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import jax
import numpy as np

from igspad_jax.batches import batches
from igspad_jax.cameras import pose_errors
from igspad_jax.compilation import use_compilation_cache
from igspad_jax.data import Lens, LoadedViews, Photograph, lens_for, prepare_image
from igspad_jax.detect import Comparison, ExpectedAnomaly, make_comparison, own_level, pooled
from igspad_jax.errors import InputError
from igspad_jax.inspector.automatic import resolve
from igspad_jax.inspector.calibration import Calibration, Measured, calibrate
from igspad_jax.inspector.coverage import Coverage
from igspad_jax.inspector.inspection import Inspection, PoseEstimate, Verdict
from igspad_jax.inspector.regions import find_regions
from igspad_jax.inspector.storage import load_parts, save_object, save_parts
from igspad_jax.inspector.taken import as_taken
from igspad_jax.invert import invert
from igspad_jax.invert.deviations import deviations
from igspad_jax.match import FirstPoses, Landmarks, PoseHypothesis
from igspad_jax.networks.weights import NO_SOURCES, Sources
from igspad_jax.normal_object import NormalObject, faded, lit
from igspad_jax.settings import InspectorConfig

_PLAIN = np.array([1.0, 0.0], np.float32)  # an exposure that changes nothing
_EXACT = 0.1  # degrees, standard deviation of a pose that no other way betters
_UNCALIBRATED = Calibration(scores=(), residual_limit=1.0, farthest=180.0)


class Inspector:
    """Tells from one photograph, from any side, whether an object is defective, and where.

    An image is located (`locate`: first poses, solver), compared with the render at its pose
    (`compare`) and judged (`judge`). It gives the same result whether alone or among others.

    Attributes:
        normal_object: what a normal one looks like.
        views: the training images that its scene was fitted to, with their poses.
        config: the settings.
        expected: the anomaly that normal images show; None before `learn`.
        calibration: what the verdict rests on; without any, every image is UNSURE.
    """

    def __init__(
        self,
        normal_object: NormalObject,
        views: LoadedViews,
        config: InspectorConfig,
        *,
        expected: ExpectedAnomaly | None = None,
        calibration: Calibration = _UNCALIBRATED,
        landmarks: Landmarks | None = None,
        sources: Sources = NO_SOURCES,
        features_folder: Path | None = None,
    ):
        """Make an inspector of an object; see also `load`.

        Args:
            normal_object: the object.
            views: the training images, of the object's size.
            config: the settings.
            expected: what `learn` found.
            calibration: what `calibrate` found.
            landmarks: what photographs are located by, where there was a structure from motion.
            sources: of weights that are not the usual ones.
            features_folder: where a network's keypoints of the training images are kept.
        """
        self.normal_object, self.views = normal_object, views
        self.config = resolve(config, sources)
        self.expected, self.calibration = expected, calibration
        self._landmarks = landmarks
        self._sources, self._features_folder = sources, features_folder
        self.coverage = Coverage(views.viewmats, np.asarray(normal_object.centre, np.float64))

    @classmethod
    def load(cls, folder: str | Path, sources: Sources = NO_SOURCES) -> Self:
        """Read an inspector from its folder, or from the folder of the run that made it.

        From here on JAX keeps compiled programs on disk, see `use_compilation_cache`.

        Args:
            folder: the folder.
            sources: of weights that are not the usual ones.

        Raises:
            InputError: if something is missing, damaged, of another format, or the weights on this
                machine are not those that the inspector was calibrated with.
        """
        use_compilation_cache()
        return cls(**load_parts(Path(folder), sources)._asdict(), sources=sources)

    def save(self, folder: str | Path, *, with_object: bool = True, expected_key: str = "") -> None:
        """Write the inspector to a folder, which may be copied to another machine.

        Args:
            folder: the folder.
            with_object: whether the normal object is written too; else it must be there.
            expected_key: stands for what `expected` was learnt from, see `storage.load_expected`.
        """
        folder = Path(folder)
        if with_object:
            names = [f"{i:04d}" for i in range(len(self.views.images))]
            save_object(folder, self.normal_object, self.views, names)
        save_parts(
            folder, self.config, self.expected, self.calibration, self._sources,
            capacity=self.normal_object.capacity.slots, expected_key=expected_key,
        )  # fmt: skip

    @functools.cached_property
    def first_poses(self) -> FirstPoses:
        """Finds the poses that the solver starts from."""
        return FirstPoses(
            self.normal_object, self.views, self.config.match,
            self._sources, self._features_folder, self._landmarks,
        )  # fmt: skip

    @functools.cached_property
    def lenses(self) -> tuple[Lens, ...]:
        """Of the training photographs, the commonest first."""
        return self.views.lenses or (self.normal_object.working_camera.lens,)

    @functools.cached_property
    def comparison(self) -> Comparison:
        """Compares images with renders."""
        detect = self.config.detect
        return make_comparison(detect.features, self._sources, dtype=detect.dtype)

    @property
    def batch(self) -> int:
        """Images that are worked on at once; a CPU gains nothing from more than one."""
        return 1 if jax.default_backend() == "cpu" else self.config.invert.batch

    def __call__(self, image: np.ndarray) -> Inspection:
        """Inspect a photograph, uint8 [H, W, 3 or 4] or float [H, W, 3] in [0, 1].

        Raises:
            InputError: it has the proportions of no training photograph, or is not finite.
        """
        return next(self.inspect([image]))

    def inspect(self, images: Sequence[np.ndarray]) -> Iterator[Inspection]:
        """Inspect images, each as `__call__` does; on accelerators several at once."""
        yield from self.inspect_read([self.read(image) for image in images])

    def inspect_read(self, photographs: Sequence[Photograph]) -> Iterator[Inspection]:
        """Inspect photographs as `read` gives them; maps and regions are in pixels as taken."""
        camera = self.normal_object.working_camera
        compared = zip(photographs, self._compared(photographs), strict=True)
        for photograph, (pose, anomaly_map) in compared:
            yield as_taken(self.judge(pose, anomaly_map), camera, photograph.lens)

    def _compared(
        self, photographs: Sequence[Photograph]
    ) -> Iterator[tuple[PoseEstimate, np.ndarray]]:
        """The pose and the anomaly map of each of the photographs, as `read` gives them."""
        for chosen, real in batches(len(photographs), self.batch):
            group = [photographs[i] for i in chosen]
            poses, renders = self.locate(group)
            anomaly_maps = self.compare(group, poses, renders)
            yield from zip(poses[:real], anomaly_maps[:real], strict=True)

    def read(self, image: np.ndarray, what: str = "image") -> Photograph:
        """A photograph as it is inspected: on the object's background, by the working camera.

        Its lens is that of the training photographs of its size, or else of its proportions.

        Args:
            image: uint8 [H, W, 3 or 4], or float in [0, 1].
            what: names the image in errors.

        Raises:
            InputError: it has the proportions of no training photograph, is smaller than the
                working images, or not finite.
        """
        background = np.asarray(self.normal_object.background).tolist()
        if np.ndim(image) != 3:
            prepare_image(image, what=what)  # says what is wrong
        height, width = np.shape(image)[:2]
        lens = lens_for(self.lenses, width, height)
        if lens is None:
            sizes = dict.fromkeys(f"{lens.width} x {lens.height}" for lens in self.lenses)
            raise InputError(
                f"{what} is {width} x {height} px, which is not the shape of the training images, "
                f"{', '.join(sizes)}: take it with the same camera"
            )
        camera = self.normal_object.working_camera
        return Photograph.read(image, lens, camera, background=background, what=what)

    def locate(self, photographs: Sequence[Photograph]) -> tuple[list[PoseEstimate], np.ndarray]:
        """Estimate the poses of photographs.

        A pose that many landmarks agree on is taken as it is, for the solver finds none that is
        more exact. The other ways are tried where they do not, or where the object at that pose
        explains the photograph worse than is usual.

        Returns:
            The estimates, and the object rendered at them, [n, H, W, 3].
        """
        sure = [self.first_poses.sure(photograph) for photograph in photographs]
        found: dict[int, tuple[PoseEstimate, np.ndarray]] = {}
        for i, pose in enumerate(sure):
            if pose is not None:
                found[i] = self._as_given(photographs[i].image, pose)
        limit = self.calibration.residual_limit
        doubted = [
            i
            for i in range(len(sure))
            if i not in found
            or (found[i][0].residual > limit and found[i][0].sigma_degrees > _EXACT)
        ]
        searched = {i: self.first_poses(photographs[i]) for i in doubted}
        for i, result in self._solved(photographs, searched):
            if i not in found or result[0].residual < found[i][0].residual:
                found[i] = result
        poses, renders = zip(*(found[i] for i in range(len(photographs))), strict=True)
        return list(poses), np.stack(renders)

    def _solved(
        self,
        photographs: Sequence[Photograph],
        hypotheses: Mapping[int, list[PoseHypothesis]],
    ) -> Iterator[tuple[int, tuple[PoseEstimate, np.ndarray]]]:
        """The estimate from its hypotheses, and its render, of each of some photographs."""
        if not hypotheses:
            return
        images = np.stack([photographs[i].image for i in hypotheses])
        given = [[pose.viewmat for pose in own] for own in hypotheses.values()]
        solved = invert(
            self.normal_object,
            images,
            np.stack(given),
            self.config.invert,
            match_points=lambda image, render: self.first_poses.matched_points(image, render),
        )
        for row, (i, own) in enumerate(hypotheses.items()):
            initial = own[solved.chosen[row]]
            degrees, percent = deviations(self.normal_object, solved, row)
            estimate = PoseEstimate(
                viewmat=solved.viewmats[row],
                exposure=solved.exposures[row],
                residual=float(solved.residuals[row]),
                settled=bool(solved.settled[row]),
                sigma_degrees=degrees,
                sigma_percent=percent,
                first_viewmat=own[0].viewmat,
                initial_viewmat=initial.viewmat,
                initial_source=initial.source,
                initial_view=initial.training_view,
                losses=solved.losses[row],
                sampled=solved.sampled[row],
            )
            yield i, self._no_worse(images[row], estimate, solved.renders[row])

    def _no_worse(
        self, image: np.ndarray, estimate: PoseEstimate, render: np.ndarray
    ) -> tuple[PoseEstimate, np.ndarray]:
        """An estimate and its render, or the pose it began with where that explains as much.

        Surroundings that moved, or that the scene shows badly, can pull a pose away.
        """
        if not self.normal_object.surrounded:
            return estimate, render
        first = np.asarray(estimate.initial_viewmat, np.float32)
        other, residual = self._explained(image, first)
        if residual > estimate.residual:
            return estimate, render
        return replace(estimate, viewmat=first, exposure=_PLAIN, residual=residual), other

    def _as_given(self, image: np.ndarray, pose: PoseHypothesis) -> tuple[PoseEstimate, np.ndarray]:
        """A hypothesis as an estimate, and the object rendered at it."""
        viewmat = np.asarray(pose.viewmat, np.float32)
        render, residual = self._explained(image, viewmat)
        estimate = PoseEstimate(
            viewmat=viewmat,
            exposure=_PLAIN,
            residual=residual,
            settled=True,
            sigma_degrees=pose.sigmas[0],
            sigma_percent=pose.sigmas[1],
            first_viewmat=pose.viewmat,
            initial_viewmat=pose.viewmat,
            initial_source=pose.source,
            initial_view=pose.training_view,
            losses=np.array([residual], np.float32),
            sampled=np.ones(1, np.float32),
        )
        return estimate, render

    def _explained(self, image: np.ndarray, viewmat: np.ndarray) -> tuple[np.ndarray, float]:
        """The object at a pose [4, 4], and how badly it explains an image, both [H, W, 3]."""
        normal = self.normal_object
        render = normal.renders(viewmat[None])[0]
        return render, float(normal.residuals(image, render, normal.outlines(viewmat)))

    def render(self, poses: Sequence[PoseEstimate]) -> np.ndarray:
        """[n, H, W, 3] the normal object at estimated poses."""
        viewmats, exposures = (
            np.stack([getattr(pose, name) for pose in poses]) for name in ("viewmat", "exposure")
        )
        return self.normal_object.renders(viewmats, exposures)

    def compare(
        self, photographs: Sequence[Photograph], poses: Sequence[PoseEstimate], renders: np.ndarray
    ) -> np.ndarray:
        """[n, H, W] anomaly maps of photographs against [n, H, W, 3] renders at their poses.

        Where the scene holds the object's surroundings they are over their own level, see `level`.
        """
        images = np.stack([photograph.image for photograph in photographs])
        viewmats = np.stack([pose.viewmat for pose in poses])
        anomaly_maps = self.differences(images, viewmats, renders)
        shown = np.stack([photograph.shown for photograph in photographs])
        discounted = shown * np.stack(list(map(self.discount, anomaly_maps, viewmats)))
        if not self.normal_object.surrounded:
            return discounted
        return np.stack([m / self._own_level(m) for m in discounted])

    def differences(
        self, images: np.ndarray, viewmats: np.ndarray, renders: np.ndarray
    ) -> np.ndarray:
        """[n, H, W] distances of the features of images and of renders at their poses.

        Where the scene holds the object's surroundings, the render is put into the image's light,
        and all but the object is zero, fading in from its outline.
        """
        outlines = self.normal_object.outlines(viewmats)
        if outlines is None:
            return self.comparison.anomaly_maps(images, renders)
        renders = lit(images, renders, outlines)
        reach = self.config.detect.border * self.normal_object.width
        return self.comparison.anomaly_maps(images, renders) * faded(outlines, reach)

    def discount(self, anomaly_map: np.ndarray, viewmat: np.ndarray) -> np.ndarray:
        """An anomaly map [H, W] over what is to be expected at its pose [4, 4]."""
        detect = self.config.detect
        if self.expected is None or not detect.expected_strength:
            return anomaly_map
        expected = self.expected.at(self.normal_object, viewmat, detect.expected_views)
        excess = expected / max(self.expected.typical, 1e-12)
        return anomaly_map / (1.0 + detect.expected_strength * excess)

    def level(self, anomaly_map: np.ndarray) -> float:
        """What the pooled map is divided by for the score: its own level, to a power.

        One where `compare` has divided the map itself: maps of photographs, whose levels differ
        more, are then comparable pixel by pixel too.
        """
        return 1.0 if self.normal_object.surrounded else self._own_level(anomaly_map)

    def _own_level(self, anomaly_map: np.ndarray) -> float:
        whole = not self.normal_object.surrounded
        return max(own_level(anomaly_map, whole) ** self.config.detect.normalise, 1e-12)

    def score(self, anomaly_map: np.ndarray) -> float:
        """The image score (equation 6, normalised) of an anomaly map [H, W]."""
        return float(pooled(anomaly_map, self._pool).max()) / self.level(anomaly_map)

    @property
    def _pool(self) -> int:
        """Side of the pooling window in pixels."""
        return max(1, round(self.config.detect.pool * self.normal_object.width))

    def learn(self, on_image: Callable[[], object] | None = None) -> None:
        """Learn from the training images what the scene itself gets wrong.

        Args:
            on_image: called after each image, for progress bars.
        """
        views = self.views

        def compared() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for chosen, real in batches(len(views.images), self.batch):
                images, viewmats = views.images[chosen], views.viewmats[chosen]
                renders = self.normal_object.renders(viewmats)
                anomaly_maps = self.differences(images, viewmats, renders)
                for viewmat, anomaly_map in zip(viewmats[:real], anomaly_maps[:real], strict=True):
                    yield viewmat, anomaly_map
                    if on_image:
                        on_image()

        if self.config.detect.expected_strength:
            self.expected = ExpectedAnomaly.learn(self.normal_object, compared())

    def calibrate(self, images: Sequence[np.ndarray]) -> Calibration:
        """Set the threshold by normal images that no part of the inspector has seen.

        Args:
            images: without poses, as for `__call__`.

        Raises:
            InputError: for an image as `__call__` does, or if no pose can be found.
        """
        read = {f"image {i}": self.read(image, f"image {i}") for i, image in enumerate(images)}
        compared = dict(zip(read, self._compared(list(read.values())), strict=True))
        poses = {name: pose for name, (pose, _) in compared.items()}
        maps = ((name, read[name], anomaly_map) for name, (_, anomaly_map) in compared.items())
        self.calibration = calibrate(self.measure(poses, maps))
        return self.calibration

    def measure(
        self,
        poses: Mapping[str, PoseEstimate],
        compared: Iterable[tuple[str, Photograph, np.ndarray]],
        true_viewmats: Mapping[str, np.ndarray] | None = None,
    ) -> list[Measured]:
        """What normal images say of the inspector, for `calibrate`.

        Args:
            poses: their estimated poses by their names.
            compared: the name, the photograph and the anomaly map [H, W] of each.
            true_viewmats: [4, 4] true poses by the images' names, where known.
        """
        normal, names, truth = self.normal_object, list(poses), true_viewmats or {}
        # The pose of an image far from an image in the list is wrong for it.
        wrong = {
            name: poses[names[(i + len(names) // 2) % len(names)]].viewmat
            for i, name in enumerate(names)
        }
        measured = []
        for name, photograph, anomaly_map in compared:
            pose, error = poses[name], None
            if name in truth:
                error = float(pose_errors(pose.viewmat, truth[name], np.asarray(normal.centre))[0])
            measured.append(
                Measured(
                    name=name,
                    score=self.score(anomaly_map),
                    residual=pose.residual,
                    wrong_residual=self._explained(photograph.image, wrong[name])[1],
                    degrees=self.coverage.distance(pose.viewmat)[0],
                    pose_degrees=error,
                )
            )
        return measured

    def judge(self, pose: PoseEstimate, anomaly_map: np.ndarray) -> Inspection:
        """Decide, from the pose and the anomaly map [H, W] of an image, of the working camera."""
        rate = self.config.calibrate.false_alarm_rate
        score, level = self.score(anomaly_map), self.level(anomaly_map)
        threshold, edge = self.calibration.threshold(rate), self.calibration.typical
        doubts = self.doubts(pose)
        regions = find_regions(
            pooled(anomaly_map, self._pool) / level,
            offset=self._pool // 2,
            seed=threshold,
            edge=edge,
            depth_of=lambda: self.normal_object.depth(pose.viewmat),
            viewmat=np.asarray(pose.viewmat, np.float64),
            K=np.asarray(self.normal_object.K, np.float64),
        )
        return Inspection(
            verdict=_verdict(doubts, score, threshold),
            doubts=doubts,
            p_value=self.calibration.p_value(score),
            score=score,
            threshold=threshold,
            anomaly_map=anomaly_map,
            level=level,
            edge=edge,
            regions=regions,
            pose=pose,
        )

    def verdict(self, inspection: Inspection, rate: float) -> Verdict:
        """The verdict on an image at another false-alarm rate."""
        threshold = self.calibration.threshold(rate)
        return _verdict(inspection.doubts, inspection.score, threshold)

    def doubts(self, pose: PoseEstimate) -> tuple[str, ...]:
        """Why an image cannot be judged, in a few words each; none if it can."""
        if not len(self.calibration):
            return ("the inspector is not calibrated",)
        if not (np.isfinite(pose.viewmat).all() and np.isfinite(pose.residual)):
            return ("no pose found",)
        doubts = []
        limit, farthest = self.calibration.residual_limit, self.calibration.farthest
        if pose.residual > limit:
            doubts.append(
                f"the pose is doubted, or the image shows something else: the normal object "
                f"leaves {pose.residual:.0%} of it unexplained, up to {limit:.0%} is usual"
            )
        degrees, roll = self.coverage.distance(pose.viewmat)
        if degrees > farthest:
            doubts.append(
                f"seen from a side that no training view shows: {degrees:.0f} degrees from the "
                f"nearest, up to {farthest:.0f} is covered"
            )
        if roll > self.config.calibrate.farthest_roll:
            doubts.append(f"upside down: rolled by {roll:.0f} degrees from the training views")
        return tuple(doubts)


def _verdict(doubts: Sequence[str], score: float, threshold: float) -> Verdict:
    if doubts:
        return Verdict.UNSURE
    return Verdict.FAIL if score > threshold else Verdict.PASS
