"""Cameras, scene files and where the Gaussians start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import plyfile
import pytest
from scipy.linalg import expm

from conftest import ball_colours
from igspad_jax.cameras import (
    c2w_from_viewmat,
    camera_centre,
    hat,
    intrinsics_from_angle,
    look_at,
    pose_errors,
    scale_intrinsics,
    se3_exp,
    viewmat_from_c2w,
)
from igspad_jax.errors import InputError
from igspad_jax.scene import Gaussians
from igspad_jax.scene.harmonics import C0, colours
from igspad_jax.scene.initialise import from_points, initial_gaussians, silhouettes
from igspad_jax.scene.ply import read_ply, read_points, write_ply
from igspad_jax.scene.volume import common_volume

pytestmark = pytest.mark.usefixtures("quickly_compiled")

UP = np.array([0.0, 0.0, 1.0])
compiled_exp = jax.jit(se3_exp)


def generator(tau):
    """[4, 4] element of the Lie algebra, translation first."""
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = [[0, -tau[5], tau[4]], [tau[5], 0, -tau[3]], [-tau[4], tau[3], 0]]
    matrix[:3, 3] = tau[:3]
    return matrix


class TestCameras:
    @pytest.mark.parametrize("angle", [0.0, 1e-6, 5e-3, 0.02, 0.5, 3.0, 3.14159, 6.0])
    def test_se3_exp(self, angle):
        rng = np.random.default_rng(0)
        for _ in range(5):
            axis = rng.normal(size=3)
            tau = np.concatenate([rng.normal(size=3), angle * axis / np.linalg.norm(axis)])
            with jax.enable_x64(True):
                exact = np.asarray(compiled_exp(jnp.asarray(tau, jnp.float64)))
            np.testing.assert_allclose(exact, expm(generator(tau)), atol=1e-9)
            single = np.asarray(compiled_exp(jnp.asarray(tau, jnp.float32)))
            np.testing.assert_allclose(single, expm(generator(tau)), atol=2e-6)

    def test_se3_exp_batches(self):
        tau = np.random.default_rng(0).normal(size=(2, 3, 6))
        got = np.asarray(compiled_exp(jnp.asarray(tau, jnp.float32)))
        for index in np.ndindex(2, 3):
            np.testing.assert_allclose(got[index], expm(generator(tau[index])), atol=5e-6)

    def test_se3_exp_is_smooth_at_zero(self):
        jacobian_of = jax.jit(jax.jacobian(se3_exp))
        jacobian = np.asarray(jacobian_of(jnp.zeros(6)))
        expected = np.stack([generator(e) for e in np.eye(6)], axis=-1)
        np.testing.assert_array_equal(jacobian, expected)
        hessian_of = jax.jit(jax.hessian(lambda tau: jnp.sum(se3_exp(tau) ** 2)))
        assert np.isfinite(hessian_of(jnp.zeros(6))).all()
        # On both sides of the switch to the series.
        for angle in (0.009, 0.011):
            tau = jnp.array([0.3, -0.2, 0.5, angle, 0.0, 0.0])
            assert np.isfinite(jacobian_of(tau)).all()

    def test_hat(self):
        a, b = np.random.default_rng(0).normal(size=(2, 7, 3))
        np.testing.assert_allclose(
            jnp.einsum("nij,nj->ni", hat(jnp.asarray(a)), b), np.cross(a, b), atol=1e-5
        )

    def test_look_at(self):
        rng = np.random.default_rng(1)
        for roll in (0.0, 0.7):
            eye, target = rng.normal(size=(2, 3))
            viewmat = look_at(eye, target, UP, roll=roll)
            rotation = viewmat[:3, :3]
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(rotation) == pytest.approx(1.0)
            seen = viewmat @ [*target, 1.0]
            np.testing.assert_allclose(seen, [0, 0, np.linalg.norm(target - eye), 1], atol=1e-12)
            np.testing.assert_allclose(viewmat @ [*eye, 1.0], [0, 0, 0, 1], atol=1e-12)
            np.testing.assert_allclose(camera_centre(jnp.asarray(viewmat)), eye, atol=1e-6)
            # y points down, turned by the roll.
            down = rotation @ -UP
            assert np.arctan2(-down[0], down[1]) == pytest.approx(roll)

    def test_camera_to_world_and_back(self):
        viewmats = np.stack([look_at(np.array(e), np.zeros(3), UP) for e in np.eye(3)[:2] + 0.1])
        np.testing.assert_allclose(
            viewmat_from_c2w(c2w_from_viewmat(viewmats)), viewmats, atol=1e-12
        )
        # OpenGL's camera looks along its -z; its y points up.
        c2w = c2w_from_viewmat(look_at(np.array([4.0, 0.0, 0.0]), np.zeros(3), UP))
        np.testing.assert_allclose(c2w[:3, 3], [4, 0, 0], atol=1e-12)
        np.testing.assert_allclose(-c2w[:3, 2], [-1, 0, 0], atol=1e-12)
        np.testing.assert_allclose(c2w[:3, 1], UP, atol=1e-12)

    def test_intrinsics(self):
        K = intrinsics_from_angle(np.pi / 2, 80, 60)
        np.testing.assert_allclose(K, [[40, 0, 40], [0, 40, 30], [0, 0, 1]])
        half = scale_intrinsics(K, 0.5, 0.25)
        point = np.array([0.3, -0.2, 1.7])
        full, small = K @ point / point[2], half @ point / point[2]
        np.testing.assert_allclose(small[:2], full[:2] * [0.5, 0.25])
        np.testing.assert_allclose(
            half, intrinsics_from_angle(np.pi / 2, 40, 30) * [[1], [0.5], [1]]
        )

    @pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.5, 90.0, 179.999, 180.0])
    def test_pose_errors_rotation(self, degrees):
        true = look_at(np.array([1.0, -3.0, 1.0]), np.zeros(3), UP)
        turn = expm(generator([0, 0, 0, *np.radians(degrees) * np.array([0.6, 0.0, 0.8])]))
        angle, shift = pose_errors(turn @ true, true, np.zeros(3))
        assert angle == pytest.approx(degrees, abs=1e-6)
        assert shift == pytest.approx(0.0, abs=1e-9)  # turns about the camera leave it in place

    def test_pose_errors_translation(self):
        eye, centre = np.array([1.0, -3.0, 1.0]), np.array([0.2, 0.1, 0.0])
        true = np.stack([look_at(eye, centre, UP), look_at(2 * eye - centre, centre, UP)])
        moved = true.copy()
        moved[:, :3, 3] += [0.03, 0.0, -0.04]
        angle, shift = pose_errors(moved, true, centre)
        np.testing.assert_allclose(angle, 0.0, atol=1e-6)
        distance = np.linalg.norm(eye - centre)
        np.testing.assert_allclose(shift, [5.0 / distance, 2.5 / distance])


def random_gaussians(count=7, degree=3, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((count, 3), (count, 3), (count, 4), (count,), (count, (degree + 1) ** 2, 3))
    return Gaussians(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def fields(gaussians):
    return {f.name: getattr(gaussians, f.name) for f in dataclasses.fields(gaussians)}


def foreign_ply(path, gaussians, *, double=False, shuffle=False, extra=False, crlf=False):
    """Writes a scene as another trainer might, property by property."""
    kind = "f8" if double else "f4"
    arrays = {name: np.asarray(value) for name, value in fields(gaussians).items()}
    columns = {axis: arrays["means"][:, i] for i, axis in enumerate("xyz")}
    columns |= {f"f_dc_{i}": arrays["sh"][:, 0, i] for i in range(3)}
    rest = arrays["sh"][:, 1:].transpose(0, 2, 1).reshape(len(gaussians), -1)
    columns |= {f"f_rest_{i}": column for i, column in enumerate(rest.T)}
    columns |= {"opacity": arrays["opacity_logits"]}
    columns |= {f"scale_{i}": arrays["log_scales"][:, i] for i in range(3)}
    columns |= {f"rot_{i}": arrays["quats"][:, i] for i in range(4)}
    types = dict.fromkeys(columns, kind)
    if extra:
        columns |= {"segment": np.arange(len(gaussians)), "red": np.zeros(len(gaussians))}
        types |= {"segment": "i4", "red": "u1"}
    names = list(columns)
    if shuffle:
        np.random.default_rng(0).shuffle(names)
    record = np.zeros(len(gaussians), [(name, "<" + types[name]) for name in names])
    for name in names:
        record[name] = columns[name]
    words = {"f4": "float", "f8": "double", "i4": "int", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", "comment by another trainer"]
    header += [f"element vertex {len(gaussians)}"]
    header += [f"property {words[types[name]]} {name}" for name in names]
    header += ["element face 0", "property list uchar int vertex_indices"] if extra else []
    header += ["end_header", ""]
    path.write_bytes(("\r\n" if crlf else "\n").join(header).encode() + record.tobytes())


class TestPly:
    @pytest.mark.parametrize("degree", range(4))
    def test_round_trip(self, tmp_path, degree):
        scene = random_gaussians(degree=degree)
        write_ply(tmp_path / "deep/er/scene.ply", scene)
        back = read_ply(tmp_path / "deep/er/scene.ply")
        for name in ("means", "log_scales", "quats", "opacity_logits"):
            np.testing.assert_array_equal(getattr(back, name), getattr(scene, name))
        used = (degree + 1) ** 2
        np.testing.assert_array_equal(back.sh[:, :used], scene.sh)
        assert not np.asarray(back.sh[:, used:]).any()
        assert [p.name for p in (tmp_path / "deep/er").iterdir()] == ["scene.ply"]

    @pytest.mark.parametrize("degree", range(4))
    @pytest.mark.parametrize(
        "layout",
        [{}, {"double": True}, {"shuffle": True}, {"extra": True}, {"crlf": True}],
        ids=lambda layout: "+".join(layout) or "plain",
    )
    def test_foreign_layouts(self, tmp_path, degree, layout):
        scene = random_gaussians(degree=degree)
        foreign_ply(tmp_path / "a.ply", scene, **layout)
        back = read_ply(tmp_path / "a.ply")
        for name, value in fields(scene).items():
            np.testing.assert_array_equal(fields(back)[name], value)
            assert fields(back)[name].dtype == jnp.float32

    def test_layout_of_the_file(self, tmp_path):
        """What viewers rely on: 62 floats, the coefficients channel by channel."""
        scene = random_gaussians(count=2)
        write_ply(tmp_path / "a.ply", scene)
        header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
        names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
        row = dict(zip(names, np.frombuffer(body, "<f4").reshape(2, 62)[1], strict=True))
        assert row["nx"] == row["ny"] == row["nz"] == 0.0
        assert row["f_dc_2"] == scene.sh[1, 0, 2]
        assert row["f_rest_0"] == scene.sh[1, 1, 0]
        assert row["f_rest_14"] == scene.sh[1, 15, 0]
        assert row["f_rest_15"] == scene.sh[1, 1, 1]
        assert row["rot_0"] == scene.quats[1, 0]

    @pytest.mark.parametrize("how", [{"text": True}, {"byte_order": ">"}])
    def test_text_and_big_endian(self, tmp_path, how):
        scene = random_gaussians()
        write_ply(tmp_path / "a.ply", scene)
        vertices = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"].data
        element = plyfile.PlyElement.describe(vertices, "vertex")
        plyfile.PlyData([element], **how).write(tmp_path / "b.ply")
        np.testing.assert_array_equal(read_ply(tmp_path / "b.ply").means, scene.means)

    def bad_files(self, folder):
        scene = random_gaussians()
        good = folder / "good.ply"
        foreign_ply(good, scene)
        data = good.read_bytes()
        start = data.index(b"end_header\n") + len(b"end_header\n")
        broken = np.frombuffer(data[start:], "<f4").copy()
        broken[5] = np.nan
        large = folder / "large.ply"
        foreign_ply(large, scene, double=True)
        doubles = large.read_bytes()
        large_start = doubles.index(b"end_header\n") + len(b"end_header\n")
        values = np.frombuffer(doubles[large_start:], "<f8").copy()
        values[5] = 1e300
        return {
            "cut short": (data[:-1], "vertex"),
            "cut in the header": (data[: start // 2], "not a .ply"),
            "empty": (b"", "not a .ply"),
            "no ply": (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "not a .ply"),
            "lacks opacity": (data.replace(b"opacity", b"opaque_"), "lacks opacity"),
            "lacks a position": (data.replace(b"float z\n", b"float w\n"), "lacks z"),
            "odd number of coefficients": (data.replace(b"f_rest_44", b"unused_44"), "44 f_rest"),
            "nan": (data[:start] + broken.tobytes(), "not finite"),
            "too large": (doubles[:large_start] + values.tobytes(), "not finite"),
            "no vertices": (data[:start].replace(b"vertex 7", b"vertex 0"), "no vertices"),
            "far too many": (data.replace(b"vertex 7", b"vertex 999999999999"), "damaged"),
            "negative count": (data.replace(b"vertex 7", b"vertex -7"), "damaged"),
            "count is no number": (data.replace(b"vertex 7", b"vertex many"), "damaged"),
            "property without a name": (data.replace(b"property float x\n", b"property float\n"),
                                        "damaged"),
            "property twice": (data.replace(b"float y\n", b"float x\n"), "damaged"),
            "format without a name": (data.replace(b"format binary_little_endian 1.0", b"format"),
                                      "damaged"),
            "property of a list": (data.replace(b"property float x\n",
                                                b"property list uchar int x\n"), ""),
            "points alone": (data.replace(b"element vertex", b"element points"), "'vertex'"),
        }  # fmt: skip

    def test_bad_files(self, tmp_path):
        for name, (data, message) in self.bad_files(tmp_path).items():
            path = tmp_path / f"{name}.ply"
            path.write_bytes(data)
            with pytest.raises(InputError) as error:
                read_ply(path)
            assert str(path) in str(error.value), name
            assert message in str(error.value), name
            assert "\n" not in str(error.value), name

    def test_no_file(self, tmp_path):
        for path in (tmp_path / "none.ply", tmp_path):
            with pytest.raises(InputError, match="no such file") as error:
                read_ply(path)
            assert str(path) in str(error.value)


def cloud_ply(path, points, colours=None, kind="uchar"):
    names = ["x", "y", "z"] + (["red", "green", "blue"] if colours is not None else [])
    types = ["<f4"] * 3 + (["u1" if kind == "uchar" else "<f4"] * (len(names) - 3))
    record = np.zeros(len(points), list(zip(names, types, strict=True)))
    for i, name in enumerate(names):
        record[name] = points[:, i] if i < 3 else colours[:, i - 3]
    words = ["float"] * 3 + [kind] * (len(names) - 3)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {w} {n}" for w, n in zip(words, names, strict=True)]
    path.write_bytes("\n".join([*header, "end_header", ""]).encode() + record.tobytes())


class TestPointCloud:
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)

    def test_colours(self, tmp_path):
        levels = np.random.default_rng(1).integers(0, 256, (40, 3))
        for kind, given in (("uchar", levels), ("float", levels / 255.0)):
            cloud_ply(tmp_path / "a.ply", self.points, given, kind)
            points, rgb = read_points(tmp_path / "a.ply")
            np.testing.assert_array_equal(points, self.points)
            np.testing.assert_allclose(rgb, levels / 255.0, atol=1e-6)
        cloud_ply(tmp_path / "b.ply", self.points)
        np.testing.assert_array_equal(read_points(tmp_path / "b.ply")[1], 0.5)

    def test_bad_clouds(self, tmp_path):
        path = tmp_path / "a.ply"
        cloud_ply(path, np.where(np.arange(40)[:, None] == 3, np.nan, self.points))
        with pytest.raises(InputError, match="not finite"):
            read_points(path)
        cloud_ply(path, self.points)
        data = path.read_bytes()
        for broken, message in (
            (data.replace(b"float z", b"float w"), "no x, y and z"),
            (data[:-5], "damaged"),
            (b"", "not a .ply"),
        ):
            path.write_bytes(broken)
            with pytest.raises(InputError, match=message) as error:
                read_points(path)
            assert str(path) in str(error.value)
        with pytest.raises(InputError, match="no such file"):
            read_points(tmp_path / "none.ply")

    @pytest.mark.parametrize("count", [15, 40, 200])
    def test_start_from_a_cloud(self, ball_views, count):
        rgb = np.random.default_rng(1).uniform(size=(40, 3))
        gaussians, origin = initial_gaussians(
            ball_views.images,
            ball_views.viewmats,
            ball_views.K,
            ball_views.background,
            count=count,
            sh_degree=1,
            cloud=(self.points.astype(np.float64), rgb),
        )
        assert origin == f"{count} points drawn from a cloud of 40"
        means = np.asarray(gaussians.means)
        assert len(np.unique(means, axis=0)) == count
        between = np.linalg.norm(means[:, None] - self.points, axis=2)
        assert between.min(axis=1).max() < 0.5
        shown = np.asarray(gaussians.sh[:, 0]) * C0 + 0.5
        known = np.abs(shown[:, None] - rgb).max(axis=2).min(axis=1)
        assert known.max() < 1e-5
        used = np.abs(shown[:, None] - rgb).max(axis=2).argmin(axis=1)
        assert len(set(used)) == count if count <= 40 else len(set(used)) > 30


def start(views, **changes):
    given = dataclasses.replace(views, **changes)
    return initial_gaussians(
        given.images, given.viewmats, given.K, given.background, count=500, sh_degree=2
    )


@pytest.fixture(scope="module")
def carved(ball_views):
    return start(ball_views)


class TestInitialise:
    def test_points_lie_on_the_ball(self, ball_views, carved):
        gaussians, origin = carved
        assert origin == "500 points on the visual hull of 16 silhouettes"
        assert gaussians.means.shape == (500, 3)
        assert gaussians.sh.shape == (500, 9, 3)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gaussians))
        offsets = np.asarray(gaussians.means) - ball_views.centre
        distances = np.linalg.norm(offsets, axis=1)
        # A pixel is 0.06 at the ball; the hull of 16 views bulges out of it here and there.
        assert np.abs(np.median(distances) - ball_views.radius) < 0.03
        assert distances.min() > ball_views.radius - 0.06
        assert np.quantile(distances, 0.95) < ball_views.radius + 0.09
        # All around, and each in the colour of its place.
        assert np.linalg.norm(offsets.mean(axis=0)) < 0.06
        rgb = np.asarray(gaussians.sh[:, 0]) * C0 + 0.5
        expected = ball_colours(offsets / distances[:, None])
        assert np.abs(rgb - expected).mean() < 0.08
        assert not np.asarray(gaussians.sh[:, 1:]).any()
        # They overlap their neighbours without smearing over the ball.
        scales = np.asarray(gaussians.scales)
        assert 0.01 < np.median(scales) < 0.15

    def test_background_that_is_not_plain(self, ball_views):
        rng = np.random.default_rng(0)
        noisy = rng.uniform(size=ball_views.images.shape).astype(np.float32)
        gaussians, origin = start(ball_views, images=noisy)
        assert origin == "500 random points, because the background is not plain"
        centre, radius = common_volume(ball_views.viewmats, ball_views.K, 32, 32)
        distances = np.linalg.norm(np.asarray(gaussians.means) - centre, axis=1)
        assert distances.max() <= radius * (1 + 1e-6)
        # Uniform in the ball: an eighth of it lies within half of the radius.
        assert np.mean(distances < 0.5 * radius) == pytest.approx(0.125, abs=0.05)

    def test_silhouettes_without_a_common_volume(self, ball_views):
        size = 32
        images = np.ones_like(ball_views.images)
        for i, image in enumerate(images):
            column = 1 if i % 2 else size - 4
            image[2:5, column : column + 3] = 0.0
        _, origin = start(ball_views, images=images)
        assert "no common volume" in origin

    def test_highlights_inside_the_object_belong_to_it(self, ball_views):
        images = ball_views.images.copy()
        images[:, 15:17, 15:17] = 1.0
        before = silhouettes(ball_views.images, ball_views.background)
        after = silhouettes(images, ball_views.background)
        assert before is not None
        np.testing.assert_array_equal(before, after)
        assert 0.2 < before.mean() < 0.5

    def test_common_volume(self, ball_views):
        centre, radius = common_volume(ball_views.viewmats, ball_views.K, 32, 32)
        np.testing.assert_allclose(centre, 0.0, atol=1e-9)
        assert radius == pytest.approx(3.0 * np.sin(0.3), rel=1e-6)

    def test_cameras_that_share_no_point(self, ball_views):
        side_by_side = np.tile(np.eye(4), (5, 1, 1))
        side_by_side[:, 0, 3] = np.arange(5)
        with pytest.raises(InputError, match="look along one direction"):
            start(ball_views, images=ball_views.images[:5], viewmats=side_by_side)
        turned_away = np.diag([-1.0, 1.0, -1.0, 1.0]) @ ball_views.viewmats
        with pytest.raises(InputError, match="16 of 16 training cameras look away"):
            start(ball_views, viewmats=turned_away)

    def test_from_points(self):
        points = np.stack(np.meshgrid(*[0.5 * np.arange(3)] * 3), axis=-1).reshape(-1, 3)
        rgb = np.random.default_rng(0).uniform(size=(27, 3))
        gaussians = from_points(points, rgb, sh_degree=1, opacity=0.3)
        np.testing.assert_allclose(gaussians.scales, 0.5, rtol=1e-5)
        np.testing.assert_allclose(gaussians.opacities, 0.3, rtol=1e-5)
        directions = np.random.default_rng(1).normal(size=(27, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        np.testing.assert_allclose(
            colours(gaussians.sh, jnp.asarray(directions, jnp.float32), 1), rgb, atol=1e-6
        )

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_few_or_equal_points(self, count):
        gaussians = from_points(np.zeros((count, 3)), np.full((count, 3), 0.5), sh_degree=0)
        for value in fields(gaussians).values():
            assert np.isfinite(value).all()
