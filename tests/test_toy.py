"""The procedural toy category: its files, its geometry, its masks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from igspad_jax.cameras import intrinsics_from_angle, look_at
from igspad_jax.data import load_test, load_train, read_category, read_image, to_uint8
from igspad_jax.errors import InputError
from toy import category as toy_module
from toy.category import (
    CAMERA_ANGLE_X,
    ToyConfig,
    draw_test_viewmat,
    train_viewmats,
    write_toy_category,
)
from toy.model import make_figure
from toy.scene import Change, Ellipsoid, changed_mask, render

SIZE = 48
CONFIG = ToyConfig(seed=3, size=SIZE, train_views=8, test_per_kind=2)
K = intrinsics_from_angle(CAMERA_ANGLE_X, SIZE, SIZE)
VIEWMAT = look_at(np.array([1.3, -2.8, 1.4]), np.zeros(3), np.array([0.0, 0.0, 1.0]), roll=0.3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_toy_category(tmp_path_factory.mktemp("toy") / "a/00Toy", CONFIG)


@pytest.fixture(scope="module")
def category(root):
    return read_category(root)


@pytest.fixture(scope="module")
def figure():
    return make_figure(CONFIG.seed)


def shoot(figure, change=None, viewmat=VIEWMAT):
    return render(figure, viewmat, K, SIZE, supersample=3, change=change or Change())


def project(points, viewmat=VIEWMAT):
    p = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
    return p[..., :2] / p[..., 2:]


def corners(lo, hi):
    choice = np.indices((2, 2, 2)).reshape(3, 8).T.astype(bool)
    return np.where(choice, hi[..., None, :], lo[..., None, :]).reshape(-1, 3)


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class TestFiles:
    def test_layout_is_read(self, category):
        assert len(category.train) == 8
        assert category.kinds == ("good", "Burrs", "Missing", "Stains")
        assert len(category.test) == 8
        lens = category.camera.lens
        angle = 2.0 * np.arctan(0.5 * lens.width / lens.focal[0])
        assert angle == pytest.approx(CAMERA_ANGLE_X)
        for image in category.test:
            assert image.viewmat is not None
            assert (
                (image.clean_path is not None) == (image.mask_path is not None) == image.defective
            )

    def test_same_parameters_give_the_same_files(self, root, tmp_path):
        again = write_toy_category(tmp_path / "b/00Toy", CONFIG)
        first, second = files(root), files(again)
        assert len(first) == 8 + 8 + 6 + 6 + 3
        assert first == second

    def test_made_once_and_replaced_when_others_are_asked(self, tmp_path):
        small = ToyConfig(size=32, train_views=2, test_per_kind=0, supersample=1)
        root = write_toy_category(tmp_path / "toy", small)
        (root / "train/good/0.png").write_bytes(b"touched")
        write_toy_category(root, small)
        assert (root / "train/good/0.png").read_bytes() == b"touched"
        write_toy_category(root, ToyConfig(size=32, train_views=3, test_per_kind=0, supersample=1))
        assert read_image(root / "train/good/0.png").shape == (32, 32, 3)
        assert len(read_category(root).train) == 3
        assert [p.name for p in tmp_path.iterdir()] == ["toy"]

    def test_never_overwrites_what_it_did_not_make(self, tmp_path):
        (tmp_path / "mine.txt").write_text("keep")
        with pytest.raises(InputError, match="no toy category"):
            write_toy_category(tmp_path, CONFIG)
        assert (tmp_path / "mine.txt").read_text() == "keep"

    def test_an_interruption_leaves_nothing(self, tmp_path, monkeypatch):
        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(toy_module, "render", stop)
        with pytest.raises(KeyboardInterrupt):
            write_toy_category(tmp_path / "toy", CONFIG)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("wrong", [{"size": 8}, {"train_views": 1}, {"seed": -1}])
    def test_bad_parameters(self, wrong):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ToyConfig(**wrong)

    def test_script_says_what_is_wrong_in_one_line(self, tmp_path):
        script = Path(__file__).parents[1] / "scripts/make_toy.py"
        command = [sys.executable, str(script), f"--out={tmp_path / 'toy'}", "--size=8"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith("error: toy category: size is 8")
        assert "Traceback" not in done.stderr


class TestGeometry:
    def test_pictures_follow_the_poses_in_the_files(self, category, figure):
        loaded = load_train(category)
        for i in (0, 5):
            picture = shoot(figure, viewmat=category.train[i].viewmat)
            # Poses went through text; at most a ray or two falls on the other side of an edge.
            difference = np.abs(picture.image - loaded.images[i])
            assert difference.mean() < 1e-3
        good = category.test[0]
        image = load_test(category, good).image
        assert np.abs(shoot(figure, viewmat=good.viewmat).image - image).mean() < 2e-3

    def test_points_seen_project_into_their_pixels(self, figure):
        picture = shoot(figure)
        seen = picture.hits.brick >= 0
        uv = project(picture.hits.point[seen].astype(np.float64))
        pixel = np.broadcast_to(picture.pixels[:, None], (*seen.shape, 2))[seen]
        inside = uv - pixel
        assert inside.min() > -1e-3
        assert inside.max() < 1 + 1e-3
        assert seen.sum() > 1000
        # The rays of a pixel lie evenly about its centre, at +0.5.
        thirds = np.array([1, 3, 5]) / 6
        assert np.abs(inside[..., None] - thirds).min(axis=-1).max() < 1e-3

    def test_silhouette_is_that_of_the_bricks(self, figure):
        image = shoot(figure).image
        rows, columns = np.nonzero((image < 0.97).any(axis=2))
        first = np.array([columns.min(), rows.min()])
        last = np.array([columns.max(), rows.max()]) + 1
        whole = np.abs(figure.plane[:, :3]).max(axis=1) == 0
        least = project(corners(figure.lo[whole], figure.hi[whole]))
        top = figure.hi + np.array([0.0, 0.0, figure.stud_size[1]])
        most = project(corners(figure.lo, top))
        assert (first <= least.min(axis=0) + 1.5).all()
        assert (last >= least.max(axis=0) - 1.5).all()
        assert (first >= most.min(axis=0) - 1.0).all()
        assert (last <= most.max(axis=0) + 1.0).all()

    def test_depth_of_a_ball_and_of_a_stud(self, figure):
        eye = np.array([0.0, -3.5, 0.2])
        ball = Ellipsoid(np.array([0.0, -1.2, 0.2]), 0.15 * np.eye(3))
        picture = shoot(
            figure, Change(burrs=(ball,)), look_at(eye, ball.centre, np.array([0, 0, 1.0]))
        )
        middle = (picture.pixels == SIZE // 2).all(axis=1)
        assert picture.hits.depths[middle].min() == pytest.approx(2.3 - 0.15, abs=1e-3)
        assert (picture.hits.brick[middle] == len(figure.lo)).all()

        free = np.flatnonzero(figure.free_studs(np.ones(len(figure.lo), bool)))
        stud = free[np.argmax(figure.hi[figure.stud_brick[free], 2])]
        height = figure.hi[figure.stud_brick[stud], 2] + figure.stud_size[1]
        target = np.array([*figure.studs[stud], height])
        eye = target + np.array([0.0, 0.0, 2.5])
        picture = shoot(figure, viewmat=look_at(eye, target, np.array([0.0, 1.0, 0.0])))
        middle = (picture.pixels == SIZE // 2).all(axis=1)
        assert picture.hits.depths[middle].min() == pytest.approx(2.5, abs=1e-3)
        assert picture.hits.normal[middle].reshape(-1, 3).mean(axis=0) @ [0, 0, 1] > 0.99

    def test_normals_face_the_camera(self, figure):
        picture = shoot(figure)
        seen = picture.hits.brick >= 0
        eye = np.linalg.inv(VIEWMAT)[:3, 3]
        towards = eye - picture.hits.point[seen]
        normal = picture.hits.normal[seen]
        # A stud's radius is a hundredth of its distance, which costs float32 two digits.
        np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0, atol=2e-3)
        assert ((normal * towards).sum(axis=1) > -1e-3).mean() > 0.999

    def test_training_cameras(self):
        for number in (2, 7, 60):
            viewmats = train_viewmats(number)
            eyes = np.linalg.inv(viewmats)[:, :3, 3]
            assert len(np.unique(np.round(eyes, 6), axis=0)) == number
            np.testing.assert_allclose(np.linalg.norm(eyes, axis=1), 3.5)
            np.testing.assert_allclose(
                viewmats[:, :3, 3], np.tile([0, 0, 3.5], (number, 1)), atol=1e-9
            )

    def test_test_cameras_see_the_whole_toy(self):
        rng = np.random.default_rng(0)
        sphere = rng.normal(size=(400, 3))
        sphere *= 0.9 / np.linalg.norm(sphere, axis=1, keepdims=True)
        for _ in range(50):
            uv = project(sphere, draw_test_viewmat(rng))
            assert uv.min() > 0
            assert uv.max() < SIZE


class TestMasks:
    def test_defects_show_inside_their_masks(self, category):
        for image in category.test:
            loaded = load_test(category, image)
            assert loaded.mask.any() == image.defective
            if loaded.clean is None:
                continue
            levels = 255 * np.abs(loaded.image - loaded.clean)
            assert levels[loaded.mask].mean() >= 7.9, image.name
            outside = ~binary_dilation(loaded.mask, iterations=2)
            # Splashes that fill less than half of a pixel are all that may remain.
            assert (levels[outside].max(axis=1) > 0).mean() < 0.01, image.name

    def test_unchanged_rays_give_unchanged_pixels(self, figure):
        clean = shoot(figure)
        stained = Change(blobs=((figure.lo[0], 0.2),), stain_colour=(10, 10, 10))
        dirty = shoot(figure, stained)
        np.testing.assert_array_equal(clean.pixels, dirty.pixels)
        touched = dirty.hits.stained.any(axis=1)
        assert 0 < touched.sum() < len(touched) / 2
        column, row = clean.pixels[~touched].T
        np.testing.assert_array_equal(clean.image[row, column], dirty.image[row, column])
        share = dirty.hits.stained.mean(axis=1)
        column, row = clean.pixels.T
        np.testing.assert_array_equal(changed_mask(clean, dirty)[row, column], share >= 0.5)

    def test_stain_lies_around_its_point(self, figure):
        clean = shoot(figure)
        pixel = np.argmax(clean.hits.brick.min(axis=1) >= 0)
        point = clean.hits.point[pixel, 4]
        dirty = shoot(figure, Change(blobs=((point, 0.1),), stain_colour=(0, 0, 0)))
        seen = clean.hits.brick >= 0
        # One blob exp(-d^2 / r^2) exceeds one half within r sqrt(ln 2).
        distance = np.linalg.norm(clean.hits.point - point, axis=-1)
        expected = seen & (distance < 0.1 * np.sqrt(np.log(2.0)))
        assert (dirty.hits.stained != expected).mean() < 1e-4

    def test_a_missing_brick_changes_only_its_own_place(self, figure):
        clean = shoot(figure)
        brick = np.bincount(clean.hits.brick[clean.hits.brick >= 0]).argmax()
        gone = shoot(figure, Change(removed=(int(brick),)))
        assert not (gone.hits.brick == brick).any()
        mask = changed_mask(clean, gone)
        # Below the brick, studs that it covered come to light: they stay in its outline.
        top = figure.hi[brick] + np.array([0.0, 0.0, figure.stud_size[1]])
        uv = project(corners(figure.lo[brick], top))
        rows, columns = np.nonzero(mask)
        assert mask.sum() > 10
        assert columns.min() >= uv[:, 0].min() - 1
        assert columns.max() <= uv[:, 0].max() + 1
        assert rows.min() >= uv[:, 1].min() - 1
        assert rows.max() <= uv[:, 1].max() + 1

    def test_a_cut_takes_what_lies_beyond_its_plane(self, figure):
        clean = shoot(figure)
        brick = np.bincount(clean.hits.brick[clean.hits.brick >= 0]).argmax()
        normal = np.array([0.0, -1.0, 0.0])
        offset = normal @ (0.6 * figure.lo[brick] + 0.4 * figure.hi[brick])
        cut = shoot(figure, Change(cut=(int(brick), np.append(normal, offset))))
        own = cut.hits.brick == brick
        assert own.any()
        assert (cut.hits.point[own] @ normal).max() < offset + 1e-4
        assert (clean.hits.point[clean.hits.brick == brick] @ normal).max() > offset + 0.01

    def test_a_burr_out_of_the_outline_is_in_the_mask(self, figure):
        clean = shoot(figure)
        # A ball beside the toy covers background: its mask is its disc.
        centre = np.linalg.inv(VIEWMAT)[:3] @ [0.95, 0.95, 3.3, 1.0]
        picture = shoot(figure, Change(burrs=(Ellipsoid(centre, 0.12 * np.eye(3)),)))
        mask = changed_mask(clean, picture)
        radius = K[0, 0] * 0.12 / 3.3
        assert mask.sum() == pytest.approx(np.pi * radius**2, rel=0.2)
        rows, columns = np.nonzero(mask)
        middle = project(centre)
        assert abs(columns.mean() + 0.5 - middle[0]) < 0.5
        assert abs(rows.mean() + 0.5 - middle[1]) < 0.5


class TestFigures:
    @pytest.mark.parametrize("seed", range(12))
    def test_every_seed_is_well_behaved(self, seed):
        figure = make_figure(seed)
        top = figure.hi + np.array([0.0, 0.0, figure.stud_size[1]])
        radius = np.linalg.norm(corners(figure.lo, top), axis=1).max()
        assert 0.9 < radius <= 1.0
        assert (figure.hi > figure.lo).all()
        assert len(np.unique(figure.colour, axis=0)) >= 7
        # Left and right differ: the mirrored boxes are not the boxes.
        mirrored = np.sort(-figure.hi[:, 0])
        assert np.abs(mirrored - np.sort(figure.lo[:, 0])).max() > 0.05

    def test_studs_stand_where_nothing_covers_them(self, figure):
        everything = np.ones(len(figure.lo), bool)
        free = figure.free_studs(everything)
        height = figure.hi[figure.stud_brick, 2] + 0.5 * figure.stud_size[1]
        middle = np.concatenate([figure.studs, height[:, None]], axis=1)[:, None]
        buried = ((middle > figure.lo) & (middle < figure.hi)).all(axis=2).any(axis=1)
        assert buried.sum() > 10
        assert not (free & buried).any()
        belly = figure.stud_brick[np.flatnonzero(buried)[0]]
        alone = np.zeros(len(figure.lo), bool)
        alone[belly] = True
        uncovered = figure.free_studs(alone)
        assert (uncovered == (figure.stud_brick == belly)).all()

    def test_seeds_differ(self, figure):
        other = shoot(make_figure(CONFIG.seed + 1)).image
        mine = shoot(figure).image
        assert np.abs(mine - other).mean() > 0.02

    def test_background_is_white_and_views_differ(self, category):
        images = to_uint8(load_train(category).images)
        assert (images[:, 0] == 255).all()
        assert (images[:, :, 0] == 255).all()
        pairs = np.abs(images[:, None].astype(int) - images[None]).mean(axis=(2, 3, 4))
        assert pairs[~np.eye(len(images), dtype=bool)].min() > 4
