"""Lenses, the working camera, and carrying photographs, poses and maps there and back."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from igspad_jax.data import Lens, Photograph, WorkingCamera, lens_for
from igspad_jax.data.photographs import working_mask
from igspad_jax.errors import InputError

BENT = Lens(200, 150, (160.0, 158.0), (101.0, 74.0), (-0.15, 0.04, 0.004, -0.003))
RATIONAL = Lens(200, 150, (160.0, 158.0), (101.0, 74.0), (0.3, 0.1, 0.01, 0.02, 0.1, 0.4, 0.2, 0.1))
FISHEYE = Lens(200, 150, (90.0, 90.0), (100.0, 75.0), (0.05, -0.01, 0.002, 0.0), True)
PLAIN = Lens(200, 150, (160.0, 160.0), (100.0, 75.0))
ALL = pytest.mark.parametrize("lens", [BENT, RATIONAL, FISHEYE, PLAIN])


def smooth(width: int, height: int) -> np.ndarray:
    """[H, W, 3] colours that change slowly, another at every place."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    return np.stack([x, y, 0.5 + 0.3 * np.sin(9 * x + 5 * y)], axis=-1).astype(np.float32)


class TestLens:
    @ALL
    def test_directions_of_pixels_project_back(self, lens):
        y, x = np.mgrid[5:150:20, 5:200:20] + 0.5
        pixels = np.stack([x.ravel(), y.ravel()], axis=1)
        np.testing.assert_allclose(lens.project(lens.directions(pixels)), pixels, atol=1e-3)

    def test_projection_by_the_formula(self):
        x, y = 0.2, -0.3
        r = x * x + y * y
        k1, k2, p1, p2 = BENT.distortion
        radial = 1 + k1 * r + k2 * r * r
        bent = [
            x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x),
            y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y,
        ]
        expected = np.array(bent) * BENT.focal + BENT.centre
        found = BENT.project(np.array([[2 * x, 2 * y, 2.0]]))
        np.testing.assert_allclose(found[0], expected, atol=1e-9)

    @ALL
    def test_turned(self, lens):
        """A photograph turned by a quarter shows a turned direction at the turned place."""
        directions = np.array([[0.2, -0.1, 1.0], [-0.3, 0.25, 1.0]])
        turned = directions[:, [1, 0, 2]] * [-1, 1, 1]
        x, y = lens.project(directions).T
        expected = np.stack([lens.height - y, x], axis=1)
        np.testing.assert_allclose(lens.turned().project(turned), expected, atol=1e-9)
        assert (lens.turned().width, lens.turned().height) == (150, 200)

    @ALL
    def test_scaled_and_read_again(self, lens):
        directions = np.array([[0.2, -0.1, 1.0]])
        np.testing.assert_allclose(
            lens.scaled(100, 75).project(directions), 0.5 * lens.project(directions)
        )
        assert Lens.from_json(json.loads(json.dumps(dataclasses.asdict(lens)))) == lens

    def test_of_a_photograph(self):
        portrait = Lens(150, 200, (170.0, 170.0), (75.0, 100.0))
        assert lens_for([BENT, portrait], 200, 150) is BENT
        assert lens_for([BENT, portrait], 150, 200) is portrait
        assert lens_for([BENT], 150, 200) == BENT.turned()
        assert lens_for([BENT], 800, 600) == BENT.scaled(800, 600)
        assert lens_for([BENT], 300, 300) is None


class TestWorkingCamera:
    def test_one_lens_without_distortion_is_the_camera(self):
        camera = WorkingCamera.of([PLAIN, PLAIN])
        assert camera.lens is PLAIN and camera.takes(PLAIN)
        assert camera.resized(100).takes(PLAIN)
        assert camera.resized(100).lens.height == 75

    def test_the_commonest_lens(self):
        camera = WorkingCamera.of([PLAIN.turned(), BENT, BENT])
        assert (camera.lens.width, camera.lens.height) == (200, 150)
        assert not camera.lens.bent and not camera.takes(BENT)
        assert camera.lens.centre == (100.0, 75.0)

    @ALL
    @pytest.mark.parametrize("portrait", [False, True])
    def test_a_point_in_space_is_where_the_photograph_shows_it(self, lens, portrait):
        """A pose of a photograph, carried over, projects where the resampled pixels are."""
        lens = lens.turned() if portrait else lens
        camera = WorkingCamera(Lens(120, 90, (100.0, 100.0), (60.0, 45.0)))
        viewmat = np.eye(4)
        viewmat[:3, 3] = [0.1, -0.05, 2.0]
        points = np.array([[0.3, 0.2, 0.1], [-0.4, 0.1, 0.0], [0.1, -0.3, 0.2]])
        carried = camera.pose(viewmat, lens)
        working = camera.lens.project(points @ carried[:3, :3].T + carried[:3, 3])
        taken = lens.project(points + viewmat[:3, 3])
        np.testing.assert_allclose(camera.pixels_back(working, lens), taken, atol=1e-4)
        np.testing.assert_allclose(camera.pose_back(carried, lens), viewmat, atol=1e-12)
        picture = smooth(lens.width, lens.height)
        resampled = camera.resample(picture, lens)
        for (u, v), (x, y) in zip(working, taken, strict=True):
            found = resampled[int(v), int(u)]
            # The centre of that pixel, in the photograph.
            ((x, y),) = camera.pixels_back(np.array([[int(u) + 0.5, int(v) + 0.5]]), lens)
            np.testing.assert_allclose(found, picture[int(y), int(x)], atol=0.02)

    @ALL
    def test_maps_come_back_to_the_photograph(self, lens):
        camera = WorkingCamera(Lens(120, 90, (100.0, 100.0), (60.0, 45.0)))
        values = np.zeros((90, 120), np.float32)
        values[30:34, 70:74] = 1.0
        back = camera.resample_back(values, lens)
        assert back.shape == (150, 200)
        rows, columns = np.nonzero(back > 0.5)
        expected = camera.pixels_back(np.array([[72.0, 32.0]]), lens)[0]
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected, atol=0.6)

    def test_a_large_photograph_is_averaged(self):
        """Noise of single pixels is averaged away, whatever the scale."""
        noise = np.random.default_rng(0).uniform(size=(750, 1000, 3)).astype(np.float32)
        camera = WorkingCamera(Lens(100, 75, (80.0, 80.0), (50.0, 37.5)))
        found = camera.resample(noise, BENT.scaled(1000, 750))
        assert found.std() < 0.06 and abs(found.mean() - 0.5) < 0.01

    def test_what_a_photograph_does_not_reach(self):
        narrow = Lens(200, 150, (320.0, 320.0), (100.0, 75.0))
        shown = WorkingCamera(PLAIN).shown(narrow)
        assert shown[75, 100] and not shown[0].any() and not shown[:, 0].any()
        assert abs(shown.mean() - 0.25) < 0.02

    def test_mask(self):
        mask = np.zeros((150, 200), bool)
        mask[60:90, 80:120] = True
        camera = WorkingCamera(PLAIN).resized(100)
        found = working_mask(mask, BENT, camera)
        assert abs(found.sum() - 300) < 40
        thin = np.zeros((150, 200), bool)
        thin[75, 80:120] = True
        assert working_mask(thin, BENT, camera).any()


class TestPhotograph:
    def test_only_shrunk_where_nothing_is_bent(self):
        pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
        photograph = Photograph.read(pixels, PLAIN, WorkingCamera(PLAIN).resized(100))
        expected = cv2.resize(pixels / np.float32(255.0), (100, 75), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(photograph.image, expected, atol=1e-6)
        assert photograph.shown.all()

    def test_transparent_pixels(self):
        pixels = np.zeros((150, 200, 4), np.uint8)
        photograph = Photograph.read(pixels, BENT, WorkingCamera(PLAIN), background=(0.2, 0.4, 0.6))
        np.testing.assert_allclose(photograph.image[75, 100], [0.2, 0.4, 0.6], atol=1e-6)

    def test_too_small(self):
        small = BENT.scaled(100, 75)
        with pytest.raises(InputError, match="part is 100 x 75 px and cannot be loaded at 200"):
            Photograph.read(np.zeros((75, 100, 3)), small, WorkingCamera(PLAIN), what="part")
