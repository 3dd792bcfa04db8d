"""Photographs of an object in its surroundings: a COLMAP model, landmarks, light, outlines."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from igspad_jax.cameras import pose_errors
from igspad_jax.data import Lens, list_categories, read_category, read_image
from igspad_jax.data.colmap import find_model
from igspad_jax.errors import InputError
from igspad_jax.inspector import Inspector, load_object
from igspad_jax.light import gains_of, matched_light
from igspad_jax.match import Landmarks
from igspad_jax.normal_object import faded, widened
from igspad_jax.pipeline.calibration import calibrate_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.mapping import Gate, mapped
from igspad_jax.pipeline.training import described, train_category
from igspad_jax.scene.volume import common_volume, looked_at, without_outliers
from igspad_jax.settings import (
    DataConfig,
    DetectConfig,
    InvertConfig,
    LevenbergConfig,
    MatchConfig,
    Settings,
    TrainConfig,
)
from toy.capture import CaptureConfig, write_capture

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A capture of the toy: two sizes of photographs, bent, each in its own light."""
    folder = tmp_path_factory.mktemp("capture") / "bird"
    return write_capture(
        folder, CaptureConfig(size=480, photographs=24, test_per_kind=1, supersample=1)
    )


@pytest.fixture(scope="module")
def category(root):
    return read_category(root)


@pytest.fixture(scope="module")
def truth(root):
    """[4, 4] viewmats of the test photographs, by their names."""
    poses = json.loads((root / "truth.json").read_text())
    return {name[5:-4]: np.array(pose) for name, pose in poses.items()}


@pytest.fixture(scope="module")
def landmarks(category):
    return described(category.structure, category.train, np.zeros(3), 2.0)


class TestModel:
    def test_category(self, category):
        assert len(category.train) == 24 and len(category.test) == 4
        assert category.kinds == ("good", "Burrs", "Missing", "Stains")
        assert [(lens.width, lens.height) for lens in category.lenses] == [(480, 360), (360, 480)]
        assert all(lens.bent for lens in category.lenses)
        assert not category.camera.lens.bent
        test = {test.name: test for test in category.test}
        assert test["good/0"].lens == category.lenses[0]

    def test_points_are_where_the_views_say(self, category):
        structure = category.structure
        for name, (which, places) in structure.shown.items():
            viewmat, lens = structure.viewmats[name], structure.lenses[name]
            seen = structure.points[which] @ viewmat[:3, :3].T + viewmat[:3, 3]
            away = np.linalg.norm(lens.project(seen) - places, axis=1)
            assert away.max() < 0.51  # they are keypoints

    def test_a_portrait_is_laid_on_its_side(self, category):
        """Points land at the same place of the working image as of the resampled photograph."""
        view = category.train[3]
        assert view.lens.height > view.lens.width
        points = category.structure.points[category.structure.shown[view.name][0]]
        taken = category.structure.viewmats[view.name]
        expected = view.lens.project(points @ taken[:3, :3].T + taken[:3, 3])
        seen = points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        working = category.camera.lens.project(seen)
        back = category.camera.pixels_back(working, view.lens)
        np.testing.assert_allclose(back, expected, atol=1e-3)

    @pytest.fixture
    def copy(self, root, tmp_path):
        return shutil.copytree(root, tmp_path / "copy")

    def test_the_largest_model_is_taken(self, copy):
        shutil.copytree(copy / "sparse/0", copy / "sparse/1")
        text = (copy / "sparse/0/images.txt").read_text().splitlines()
        (copy / "sparse/0/images.txt").write_text("\n".join(text[:4]) + "\n")
        assert find_model(copy) == copy / "sparse/1"
        assert list_categories(copy) == [copy]

    def test_other_folders(self, copy, caplog):
        (copy / "photos").rename(copy / "images")
        (copy / "images/005.png").unlink()
        shutil.copy(copy / "images/006.png", copy / "images/new.png")
        with caplog.at_level("WARNING"):
            assert len(read_category(copy).train) == 23
        assert "005.png" in caplog.text and "new.png" in caplog.text

    def test_masks_beside_the_photographs(self, copy):
        (copy / "masks").mkdir()
        shutil.copy(copy / "photos/004.png", copy / "masks/004.png.png")
        found = [view.mask_path for view in read_category(copy).train]
        assert [path.name for path in found if path] == ["004.png.png"]

    @pytest.mark.parametrize(
        ("file", "text", "says"),
        [
            ("cameras.txt", "1 FOV 480 360 380 380 240 180 0.9\n", "FOV"),
            ("cameras.txt", "1 OPENCV 400\n", "not a COLMAP model"),
            ("images.txt", "nonsense\n", "not a COLMAP model"),
        ],
    )
    def test_damaged(self, copy, file, text, says):
        (copy / "sparse/0" / file).write_text(text)
        with pytest.raises(InputError, match=says) as caught:
            read_category(copy)
        assert "\n" not in str(caught.value)

    def test_photographs_of_another_shape(self, copy):
        text = (copy / "sparse/0/cameras.txt").read_text()
        (copy / "sparse/0/cameras.txt").write_text(text.replace("480 360", "600 360"))
        with pytest.raises(InputError, match=r"480 x 360 px but its camera in the model takes 600"):
            read_category(copy)

    def test_without_photographs(self, copy):
        shutil.rmtree(copy / "photos")
        with pytest.raises(InputError, match="no folder photos or images"):
            read_category(copy)


class TestLandmarks:
    def test_poses_of_photographs_of_all_kinds(self, category, landmarks, truth):
        """Defects, another light and portraits included."""
        for test in category.test:
            found = landmarks.locate(read_image(test.path), test.lens)
            assert found is not None and found.inliers > 15
            degrees, percent = pose_errors(found.viewmat, truth[test.name], np.zeros(3))
            assert degrees < 1.5 and percent < 2.5, test.name

    def test_at_another_size(self, category, landmarks, truth):
        test = category.test[0]
        pixels = read_image(test.path).repeat(2, axis=0).repeat(2, axis=1)
        found = landmarks.locate(pixels, test.lens.scaled(960, 720))
        assert pose_errors(found.viewmat, truth[test.name], np.zeros(3))[0] < 2.0

    def test_nothing_in_a_picture_of_something_else(self, landmarks, category):
        noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
        lens = category.lenses[0]
        for pixels in (noise, np.full_like(noise, 128)):
            found = landmarks.locate(pixels, lens)
            assert found is None or found.inliers < 12

    def test_saved(self, landmarks, category, tmp_path):
        landmarks.save(tmp_path / "landmarks.npz")
        again = Landmarks.load(tmp_path / "landmarks.npz")
        test = category.test[0]
        first, second = (
            marks.locate(read_image(test.path), test.lens) for marks in (landmarks, again)
        )
        np.testing.assert_array_equal(first.viewmat, second.viewmat)
        (tmp_path / "landmarks.npz").write_bytes(b"PK")
        with pytest.raises(InputError, match=r"landmarks\.npz: cannot be read"):
            Landmarks.load(tmp_path / "landmarks.npz")


class TestLight:
    def test_gains_by_shared_points(self):
        rng = np.random.default_rng(0)
        gains = rng.uniform(0.7, 1.4, (6, 3))
        own = rng.uniform(0.1, 0.6, (300, 3))
        shown = [rng.choice(300, 200, replace=False) for _ in range(6)]
        colours = [own[which] * gain for which, gain in zip(shown, gains, strict=True)]
        colours[2][:40] = 1.0  # a highlight
        found = gains_of(colours, shown, 300)
        ratio = found / gains
        np.testing.assert_allclose(ratio / ratio.mean(axis=0), 1.0, atol=0.05)

    def test_nothing_is_shared(self):
        points = [np.arange(5), np.arange(5, 10)]
        np.testing.assert_array_equal(gains_of([np.full((5, 3), 0.5)] * 2, points, 10), 1.0)

    def test_matched(self):
        rng = np.random.default_rng(1)
        render = rng.uniform(0.1, 0.6, (40, 50, 3)).astype(np.float32)
        image = render * [1.2, 1.0, 0.9] + [0.02, 0.0, 0.05]
        where = np.zeros((40, 50), bool)
        where[5:35, 5:45] = True
        image[10:16, 10:20] = 1.0  # a defect
        image[~where] = 0.0
        found = matched_light(image, render, where)
        good = where.copy()
        good[10:16, 10:20] = False
        np.testing.assert_allclose(found[good], image[good], atol=0.01)
        np.testing.assert_array_equal(matched_light(image, render, ~(where | ~where)), render)


class TestVolume:
    def cameras(self, distances):
        from igspad_jax.cameras import look_at

        rng = np.random.default_rng(0)
        directions = rng.normal(size=(len(distances), 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        up = np.array([0.1, 0.2, 0.97])
        eyes = directions * np.array(distances)[:, None]
        return np.stack([look_at(eye, np.zeros(3), up) for eye in eyes])

    def test_close_ups(self):
        K = Lens(100, 100, (100.0, 100.0), (50.0, 50.0)).K
        viewmats = self.cameras([4.0] * 12 + [1.0] * 4)
        _, near = common_volume(viewmats, K, 100, 100)
        _, usual = common_volume(viewmats, K, 100, 100, close_ups=0.5)
        np.testing.assert_allclose([near, usual], np.array([1.0, 4.0]) / np.sqrt(5), rtol=1e-6)

    def test_looked_at(self):
        """Far and stray points count little."""
        K = Lens(100, 100, (100.0, 100.0), (50.0, 50.0)).K
        rng = np.random.default_rng(1)
        points = np.concatenate([rng.normal(size=(300, 3)) * 0.2, 5.0 + rng.normal(size=(60, 3))])
        centre, radius = looked_at(points, self.cameras([4.0] * 16), K, 100, 100)
        assert np.linalg.norm(centre) < 0.15 and 1.5 < radius < 1.9

    def test_outliers(self):
        rng = np.random.default_rng(2)
        points = np.concatenate([rng.uniform(-1, 1, (500, 3)), [[30.0, 0.0, 0.0]]])
        kept, colours = without_outliers(points, points)
        assert len(kept) > 450 and np.abs(kept).max() <= 1.0
        np.testing.assert_array_equal(kept, colours)
        assert len(without_outliers(points[-50:], points[-50:])[0]) == 50


ONE_LEVEL = LevenbergConfig(
    widths=(0,), blurs=(0.0,), merge_cells=(0,), steps=(8,), deltas=(0.05,),
    translation_penalties=(0.0,), hypotheses_kept=(1,), extra_turn=0.0, readmit_level=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def settings():
    """A minute on a CPU, the solver by its last level alone."""
    train = TrainConfig(
        steps=500, count=4000, sh_degree=1, sh_every=200, coarse=0.5, evaluate_every=250,
        checkpoint_every=500,
    )  # fmt: skip
    return Settings(
        match=MatchConfig(matcher="opencv", hypotheses=2),
        invert=InvertConfig(levenberg=ONE_LEVEL),
        detect=DetectConfig(features="handmade"),
        data=DataConfig(size=160, held_out=0.2),
        train=train,
    )


@pytest.fixture(scope="module")
def finished(category, settings, tmp_path_factory):
    """The run folder of the whole pipeline."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "bird")
    train_category(category, folder, settings)
    calibrate_category(category, folder, settings)
    evaluate_category(category, folder, settings)
    return folder


class TestRun:
    def test_poses_are_those_of_the_photographs(self, finished, truth):
        """Of cameras as they were held, portraits too, not of the working camera."""
        entries = finished.load("inspections")["images"]
        found = [
            pose_errors(np.array(e["viewmat"]), truth[e["name"]], np.zeros(3))[0] for e in entries
        ]
        assert np.median(found) < 1.5 and max(found) < 10.0

    def test_defects_stand_out(self, finished):
        figures = finished.load("metrics")["sizes"]["native"]["overall"]
        assert figures["pixel_auroc"] > 0.7
        assert finished.load("training")["object_psnr"] > 18.0

    def test_the_object_is_found(self, finished, category):
        """Its outline, at a true pose, is the toy's, and no more of the room than of the toy."""
        normal, views = load_object(finished.object)
        assert normal.surrounded and np.linalg.norm(np.asarray(normal.centre)) < 0.5
        overlaps = []
        for image, viewmat in zip(views.images[:6], views.viewmats[:6], strict=True):
            (outline,) = normal.outlines(viewmat[None])
            # The figure's own points, from the structure.
            points = category.structure.points
            seen = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ views.K.T
            at = (seen[:, :2] / seen[:, 2:]).astype(int)
            at = np.clip(at, 0, np.array(image.shape[1::-1]) - 1)
            overlaps.append(outline[at[:, 1], at[:, 0]].mean())
            assert outline.mean() < 0.6
        assert np.mean(overlaps) > 0.85

    def test_a_photograph_in_python(self, finished, category):
        inspector = Inspector.load(finished.object)
        test = category.test[0]
        pixels = read_image(test.path)
        found = inspector(pixels)
        assert found.anomaly_map.shape == pixels.shape[:2]
        (entry,) = [e for e in finished.load("inspections")["images"] if e["name"] == test.name]
        np.testing.assert_allclose(found.viewmat, entry["viewmat"], atol=1e-4)
        assert found.score == pytest.approx(entry["score"], rel=1e-3)
        for region in found.regions:
            left, top, width, height = region.box
            assert 0 <= left < left + width <= 480 and 0 <= top < top + height <= 360
        # The same photograph, turned by a quarter as another person holds the phone.
        turned = inspector(np.ascontiguousarray(np.rot90(pixels)))
        assert turned.anomaly_map.shape == (480, 360)
        assert turned.score == pytest.approx(found.score, rel=0.3, abs=0.02)

    def test_done_once(self, finished, category, settings, caplog):
        before = finished.path("metrics").stat().st_mtime_ns
        with caplog.at_level("INFO"):
            train_category(category, finished, settings)
            calibrate_category(category, finished, settings)
            evaluate_category(category, finished, settings)
        assert finished.path("metrics").stat().st_mtime_ns == before
        assert "the object is there already" in caplog.text


class TestOutlines:
    def test_faded_and_widened(self):
        outline = np.zeros((1, 40, 60), bool)
        outline[0, 10:30, 20:40] = True
        weights = faded(outline, 10.0)[0]
        assert not weights[~outline[0]].any() and weights[20, 30] == 1.0
        assert np.all(np.diff(weights[20, 20:30]) >= 0.0) and 0.0 < weights[20, 24] < 0.6
        wide = widened(outline, 3.0)[0]
        assert wide[20, 17] and not wide[20, 16] and wide[outline[0]].all()
        # What is cut by the image's border has no edge there.
        cut = np.ones((1, 20, 20), bool)
        assert faded(cut, 5.0).min() == 1.0

    def test_residuals_are_of_the_object_in_its_light(self, finished):
        normal, views = load_object(finished.object)
        viewmat, (image,) = views.viewmats[:1], views.images[:1]
        outlines = normal.outlines(viewmat)
        render = normal.renders(viewmat)
        usual = normal.residuals(image[None], render, outlines)
        darker = np.where(outlines[..., None], 0.8 * image[None], image[None])
        np.testing.assert_allclose(normal.residuals(darker, render, outlines), usual, rtol=0.3)
        elsewhere = np.where(outlines[..., None], image[None], 1.0 - image[None])
        np.testing.assert_allclose(normal.residuals(elsewhere, render, outlines), usual)
        assert normal.residuals(1.0 - image[None], render, outlines)[0] > 2.0 * usual[0]
        nothing = np.zeros_like(outlines)
        assert normal.residuals(image[None], render, nothing)[0] == 1.0


class TestMapping:
    def test_photographs_without_poses(self, root, category, tmp_path, caplog):
        """Found by structure from motion, up to a similarity; a picture that is twice there."""
        bare = tmp_path / "bare"
        (bare / "photos").mkdir(parents=True)
        for view in category.train[:10]:
            shutil.copy(view.path, bare / "photos")
        shutil.copy(category.train[0].path, bare / "photos/again.png")
        assert list_categories(bare) == [bare]
        with pytest.raises(InputError, match="no COLMAP model"):
            read_category(bare)
        with caplog.at_level("INFO"):
            found = mapped(bare, tmp_path / "results")
        assert not (bare / "sparse").exists()
        assert "again.png is left out: the same as" in caplog.text
        assert "photographs placed" in caplog.text
        assert len(found.train) >= 2
        before = (tmp_path / "results/sparse/0/images.bin").stat().st_mtime_ns
        assert len(mapped(bare, tmp_path / "results").train) == len(found.train)
        assert (tmp_path / "results/sparse/0/images.bin").stat().st_mtime_ns == before

    def test_few_photographs(self, category, tmp_path):
        (tmp_path / "photos").mkdir()
        shutil.copy(category.train[0].path, tmp_path / "photos")
        with pytest.raises(InputError, match="holds 1 photographs: take at least 8"):
            mapped(tmp_path, tmp_path / "results")

    def test_gate(self):
        good = Gate(40, {}, 0.6, 20.0, ())
        assert good.faults == ()
        bad = Gate(40, {f"{i}.jpg": "blurred" for i in range(20)}, 2.5, 90.0, ("a.jpg",) * 12)
        assert [fault.split()[0] for fault in bad.faults] == ["20", "points", "a", "12"]
        assert "20 of 40 photographs placed" in bad.statement()


def test_the_same_parameters_make_nothing_anew(root, tmp_path):
    before = (root / "photos/000.png").stat().st_mtime_ns
    config = CaptureConfig(size=480, photographs=24, test_per_kind=1, supersample=1)
    write_capture(root, config)
    assert (root / "photos/000.png").stat().st_mtime_ns == before
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="no capture"):
        write_capture(tmp_path, dataclasses.replace(config, seed=1))
