"""Reading images and categories, and what is said of those that cannot be read."""

import json
import shutil

import cv2
import numpy as np
import pytest

from igspad_jax.cameras import look_at, viewmat_from_c2w
from igspad_jax.data import (
    hold_out_blocks,
    list_categories,
    load_image,
    load_mask,
    load_test,
    load_train,
    prepare_image,
    read_category,
    read_image,
    to_uint8,
    write_image,
)
from igspad_jax.errors import InputError

WIDTH, HEIGHT = 24, 16
ANGLE = 0.7


def c2w(azimuth: float) -> np.ndarray:
    """OpenGL camera-to-world, built from its axes: looks at the origin from distance 3."""
    back = np.array([np.cos(azimuth), np.sin(azimuth), 0.5])
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    matrix[:3, 3] = 3.0 * back
    return matrix


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def mad(tmp_path):
    """A category in MAD's layout: 12 views, whose listing order is not their numbers' order."""
    root = tmp_path / "07Thing"
    for folder in ("train/good", "test/good", "test/Burrs", "ground_truth/Burrs"):
        (root / folder).mkdir(parents=True)
    frames = []
    for i in reversed(range(12)):
        write_image(root / f"train/good/{i}.png", picture(i))
        pose = c2w(0.5 * i).tolist()
        frames.append({"file_path": f"./train/good/{i}.png", "transform_matrix": pose})
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:8, 6:12] = 255
    for i in (0, 2, 10):
        write_image(root / f"test/good/{i}.png", picture(100 + i))
        write_image(root / f"test/Burrs/{i}.png", picture(200 + i))
        write_image(root / f"ground_truth/Burrs/{i}_mask.png", mask)
    save(root, {"camera_angle_x": ANGLE, "frames": frames})
    return root


def content(root) -> dict:
    return json.loads((root / "transforms.json").read_text())


def save(root, value) -> None:
    (root / "transforms.json").write_text(json.dumps(value))


def refused(root, *words: str) -> None:
    """Reading must fail with one line that contains every word."""
    with pytest.raises(InputError) as caught:
        read_category(root)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"


class TestImages:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_every_channel_count_and_depth(self, tmp_path, channels, dtype):
        image = picture(0, channels=channels)
        stored = image.astype(dtype) * (257 if dtype == np.uint16 else 1)
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        cv2.imwrite(str(tmp_path / "a.png"), stored[..., order])
        expected = np.repeat(image, 3, axis=2) if channels == 1 else image
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)

    def test_palette_is_colours_not_indices(self, tmp_path):
        pil = pytest.importorskip("PIL.Image")
        # More than 16 colours, so that the palette's indices take 8 bits, as grey values do.
        image = picture(5, height=10, width=10)
        file = pil.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10), mode="P")
        file.putpalette(image.tobytes())
        file.save(tmp_path / "p.png")
        np.testing.assert_array_equal(read_image(tmp_path / "p.png"), image)

    def test_one_bit_grey_and_grey_with_alpha(self, tmp_path):
        pil = pytest.importorskip("PIL.Image")
        bits = picture(3)[..., 0] > 127
        pil.fromarray(bits).save(tmp_path / "bits.png")
        np.testing.assert_array_equal(load_mask(tmp_path / "bits.png"), bits)
        grey = picture(4, channels=2)
        pil.fromarray(grey, mode="LA").save(tmp_path / "la.png")
        np.testing.assert_array_equal(read_image(tmp_path / "la.png"), grey[..., [0, 0, 0, 1]])

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("text.png", b"hello"),
            ("empty.png", b""),
            ("jpeg.jpg", b"\xff\xd8\xff"),
            ("thing.xyz", b"PK"),
        ],
    )
    def test_unreadable_files_are_named(self, tmp_path, name, data):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)

    def test_truncated_missing_and_folder(self, tmp_path):
        write_image(tmp_path / "a.png", picture(0))
        data = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
        (tmp_path / "folder.png").mkdir()
        for name in ("a.png", "none.png", "folder.png"):
            with pytest.raises(InputError, match=name):
                read_image(tmp_path / name)

    def test_alpha_is_laid_on_the_background(self, tmp_path):
        image = picture(1, channels=4)
        write_image(tmp_path / "a.png", image)
        background = np.array([0.1, 0.5, 0.9])
        alpha = image[..., 3:] / 255
        expected = image[..., :3] / 255 * alpha + background * (1 - alpha)
        loaded = load_image(tmp_path / "a.png", background=(0.1, 0.5, 0.9))
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded, expected, atol=1e-6)

    @pytest.mark.parametrize("channels", [3, 4])
    def test_an_image_in_memory_is_prepared_as_from_a_file(self, tmp_path, channels):
        image = picture(6, channels=channels)
        write_image(tmp_path / "a.png", image)
        background = (0.2, 0.4, 0.6)
        expected = load_image(tmp_path / "a.png", size=12, background=background)
        for pixels in (image, image / 255.0, (image / 255.0).astype(np.float16)):
            found = prepare_image(pixels, size=12, background=background)
            assert found.dtype == np.float32 and found.shape == (8, 12, 3)
            np.testing.assert_allclose(
                found, expected, atol=1e-3 if pixels.dtype == np.float16 else 1e-6
            )

    @pytest.mark.parametrize(
        ("pixels", "says"),
        [
            (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\) is no image: pass uint8"),
            (np.zeros((3, 8, 8)), r"float64 \(3, 8, 8\) is no image: pass uint8"),
            (np.zeros((0, 8, 3)), "is no image"),
            (np.zeros((8, 8, 3), np.int32), "int32 .* is no image"),
            (np.full((8, 8, 3), np.nan), r"not in \[0, 1\]; pass uint8, or scale them"),
            (np.full((8, 8, 3), 255.0), r"not in \[0, 1\]"),
            (np.full((8, 8, 3), -0.1), r"not in \[0, 1\]"),
        ],
    )
    def test_what_is_no_image(self, pixels, says):
        with pytest.raises(InputError, match=f"^photograph 7: .*{says}"):
            prepare_image(pixels, what="photograph 7")

    def test_shrinking_averages_areas(self, tmp_path):
        image = picture(2)
        write_image(tmp_path / "a.png", image)
        expected = image.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(1, 3)) / 255
        np.testing.assert_allclose(load_image(tmp_path / "a.png", size=6), expected, atol=1e-5)

    @pytest.mark.parametrize("size", [WIDTH + 1, 0, -3])
    def test_never_enlarges(self, tmp_path, size):
        write_image(tmp_path / "a.png", picture(0))
        with pytest.raises(InputError, match="choose a size"):
            load_image(tmp_path / "a.png", size=size)

    def test_mask_takes_pixels_covered_by_half(self, tmp_path):
        mask = np.zeros((8, 8), np.uint8)
        mask[0:4, 0:2] = 1  # half of one 4 x 4 block, in 0/1 as some tools write masks
        mask[4:8, 4:5] = 1  # a quarter of another
        write_image(tmp_path / "m.png", mask)
        assert load_mask(tmp_path / "m.png", size=2).tolist() == [[True, False], [False, False]]

    def test_thin_mask_does_not_vanish(self, tmp_path):
        mask = np.zeros((60, 60), np.uint8)
        write_image(tmp_path / "m.png", mask)
        assert not load_mask(tmp_path / "m.png", size=7).any()
        mask[31, 17] = 255
        write_image(tmp_path / "m.png", mask)
        small = load_mask(tmp_path / "m.png", size=7)
        assert np.argwhere(small).tolist() == [[int(31.5 * 7 / 60), int(17.5 * 7 / 60)]]

    def test_write_replaces_whole_files_only(self, tmp_path):
        path = tmp_path / "a.png"
        write_image(path, picture(0))
        write_image(path, picture(1))
        np.testing.assert_array_equal(read_image(path), picture(1))
        with pytest.raises(TypeError):
            write_image(path, picture(1) / 255.0)
        assert [p.name for p in tmp_path.iterdir()] == ["a.png"]

    def test_to_uint8_rounds_and_clips(self):
        assert to_uint8(np.array([-1.0, 0.0, 0.5, 254.6 / 255, 2.0])).tolist() == [
            0,
            0,
            128,
            255,
            255,
        ]
        assert to_uint8(np.array([False, True])).tolist() == [0, 255]


class TestMadLayout:
    def test_pairs_by_file_path(self, mad):
        category = read_category(mad)
        assert [view.path.stem for view in category.train] == [str(i) for i in range(12)]
        for i, view in enumerate(category.train):
            np.testing.assert_allclose(view.viewmat, viewmat_from_c2w(c2w(0.5 * i)), atol=1e-12)

    def test_axes_are_opencv(self, mad):
        viewmat = read_category(mad).train[0].viewmat
        eye = c2w(0.0)[:3, 3]
        np.testing.assert_allclose(
            viewmat, look_at(eye, np.zeros(3), np.array([0, 0, 1.0])), atol=1e-9
        )
        origin = viewmat[:3, 3]
        assert origin[2] == pytest.approx(3.0)
        assert (viewmat[:3, :3] @ [0, 0, 1.0])[1] < 0  # up in the world is up in the image

    def test_test_images(self, mad):
        category = read_category(mad)
        test = category.test
        names = ["good/0", "good/2", "good/10", "Burrs/0", "Burrs/2", "Burrs/10"]
        assert [image.name for image in test] == names
        assert all(image.viewmat is None and image.clean_path is None for image in test)
        loaded = load_test(category, test[3], size=12)
        assert loaded.image.shape == (8, 12, 3)
        assert loaded.mask.sum() == 2 * 3
        assert loaded.clean is None
        assert not load_test(category, test[0]).mask.any()

    def test_poses_and_clean_twins(self, mad):
        (mad / "test_clean/Burrs").mkdir(parents=True)
        write_image(mad / "test_clean/Burrs/2.png", picture(7))
        names = [f"./test/{kind}/{i}.png" for kind in ("good", "Burrs") for i in (10, 0, 2)]
        poses = {name: c2w(i).tolist() for i, name in enumerate(names)}
        (mad / "test_poses.json").write_text(json.dumps(poses))
        category = read_category(mad)
        by_name = {image.name: image for image in category.test}
        np.testing.assert_allclose(by_name["Burrs/10"].viewmat, viewmat_from_c2w(c2w(3)))
        clean = load_test(category, by_name["Burrs/2"]).clean
        assert clean is not None
        np.testing.assert_array_equal(to_uint8(clean), picture(7))
        assert by_name["Burrs/0"].clean_path is None

        del poses[names[0]]
        (mad / "test_poses.json").write_text(json.dumps(poses))
        refused(mad, "test_poses.json", "./test/good/10.png")

    def test_images_directly_in_test_or_in_its_folder_are_unlabelled(self, mad):
        for folder in ("test/unlabelled", "test/warped", "ground_truth/warped"):
            (mad / folder).mkdir()
        write_image(mad / "test/warped/0.png", picture(0))
        write_image(mad / "ground_truth/warped/0_mask.png", np.ones((HEIGHT, WIDTH), np.uint8))
        places = ["test/unlabelled/4.png", "test/unlabelled/11.png", "test/9.png", "test/10.png"]
        for i, place in enumerate(places):
            write_image(mad / place, picture(300 + i))
        category = read_category(mad)
        assert category.kinds == ("good", "Burrs", "warped", "unlabelled")
        test = category.test
        assert [image.name for image in test[7:]] == [
            "unlabelled/4", "unlabelled/11", "9", "10",
        ]  # fmt: skip
        for i, image in enumerate(test[7:]):
            assert not image.labelled and not image.defective
            assert image.mask_path is None and image.viewmat is None
            loaded = load_test(category, image)
            np.testing.assert_array_equal(to_uint8(loaded.image), picture(300 + i))
            assert not loaded.mask.any()
        assert [(image.labelled, image.defective) for image in test[2:4]] == [
            (True, False), (True, True),
        ]  # fmt: skip

    def test_equal_names_in_both_places_are_told_apart(self, mad):
        (mad / "test/unlabelled").mkdir()
        write_image(mad / "test/unlabelled/3.png", picture(0))
        write_image(mad / "test/3.png", picture(1))
        names = [image.name for image in read_category(mad).test]
        assert len(names) == len(set(names)) == 8

    def test_unlabelled_images_may_have_poses(self, mad):
        write_image(mad / "test/9.png", picture(0))
        write_image(mad / "test/10.png", picture(1))
        names = [f"./test/{kind}/{i}.png" for kind in ("good", "Burrs") for i in (0, 2, 10)]
        poses = {name: c2w(i).tolist() for i, name in enumerate([*names, "./test/10.png"])}
        (mad / "test_poses.json").write_text(json.dumps(poses))
        by_name = {image.name: image for image in read_category(mad).test}
        assert by_name["9"].viewmat is None
        np.testing.assert_allclose(by_name["10"].viewmat, viewmat_from_c2w(c2w(6)))

    def test_a_category_of_unlabelled_images_alone(self, mad):
        shutil.rmtree(mad / "test")
        shutil.rmtree(mad / "ground_truth")
        (mad / "test").mkdir()
        write_image(mad / "test/0.png", picture(0))
        category = read_category(mad)
        assert category.kinds == ("unlabelled",) and len(category.test) == 1

    def test_intrinsics_follow_the_size(self, mad):
        category = read_category(mad)
        focal = 0.5 * WIDTH / np.tan(0.5 * ANGLE)
        expected = [[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]]
        np.testing.assert_allclose(category.camera.K, expected)
        np.testing.assert_allclose(category.camera.resized(12).K, np.diag([0.5, 0.5, 1]) @ expected)

    def test_load_train(self, mad):
        category = read_category(mad)
        loaded = load_train(category, size=12, views=category.train[3:5])
        assert loaded.images.shape == (2, 8, 12, 3)
        assert loaded.images.dtype == loaded.viewmats.dtype == loaded.K.dtype == np.float32
        np.testing.assert_array_equal(
            loaded.images[1], load_image(mad / "train/good/4.png", size=12)
        )
        np.testing.assert_allclose(loaded.viewmats[1], category.train[4].viewmat, rtol=1e-6)
        np.testing.assert_allclose(loaded.K, category.camera.resized(12).K, rtol=1e-6)
        assert loaded.shown is None

    def test_instant_ngp_intrinsics(self, mad):
        value = content(mad)
        del value["camera_angle_x"]
        value |= {"fl_x": 60.0, "fl_y": 62.0, "cx": 25.0, "cy": 15.0, "w": 48, "h": 32}
        save(mad, value)
        np.testing.assert_allclose(
            read_category(mad).camera.K, [[30.0, 0, 12.5], [0, 31.0, 7.5], [0, 0, 1]]
        )
        save(mad, value | {"h": 48})
        refused(mad, "transforms.json", "aspect ratio")
        save(mad, value | {"k4": 0.1})
        refused(mad, "transforms.json", "k4", "calibrate")
        save(mad, value | {"camera_model": "EQUIRECTANGULAR"})
        refused(mad, "transforms.json", "camera_model", "OPENCV_FISHEYE")

    def test_list_categories(self, mad):
        assert list_categories(mad) == [mad]
        shutil.copytree(mad, mad.parent / "10Other")
        (mad.parent / "notes").mkdir()
        assert [c.name for c in list_categories(mad.parent)] == ["07Thing", "10Other"]
        for wrong in (mad / "train", mad / "nowhere"):
            with pytest.raises(InputError, match=wrong.name):
                list_categories(wrong)


class TestLies:
    """Each transforms.json or folder that contradicts itself is refused in one line."""

    def test_missing_image(self, mad):
        (mad / "train/good/5.png").unlink()
        refused(mad, "transforms.json", "train/good/5.png")

    def test_duplicate_file_path(self, mad):
        value = content(mad)
        value["frames"][3]["file_path"] = "train/good/../good/11"
        save(mad, value)
        refused(mad, "frame 3", "11.png", "frame 0")

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (lambda m: (2.0 * np.array(m)).tolist(), "not a rotation"),
            (lambda m: (np.array(m) @ np.diag([1, -1, 1, 1])).tolist(), "mirroring"),
            (lambda m: np.where(np.eye(4) > 0, np.nan, m).tolist(), "NaN"),
            (lambda m: m[:3], "4 x 4"),
            (lambda m: "identity", "4 x 4"),
            (lambda m: None, "4 x 4"),
        ],
    )
    def test_bad_matrix(self, mad, change, word):
        value = content(mad)
        value["frames"][2]["transform_matrix"] = change(value["frames"][2]["transform_matrix"])
        save(mad, value)
        refused(mad, "transforms.json", "frame 2", word)

    def test_missing_angle(self, mad):
        value = content(mad)
        del value["camera_angle_x"]
        save(mad, value)
        refused(mad, "camera_angle_x", "radians")

    @pytest.mark.parametrize("angle", [40.0, 0.0, "wide", None, True, float("nan")])
    def test_bad_angle(self, mad, angle):
        save(mad, content(mad) | {"camera_angle_x": angle})
        refused(mad, "transforms.json", "camera_angle_x")

    @pytest.mark.parametrize("number", [0, 1])
    def test_too_few_frames(self, mad, number):
        value = content(mad)
        save(mad, value | {"frames": value["frames"][:number]})
        refused(mad, f"{number} frame", "at least 2")

    def test_no_frames_or_no_path(self, mad):
        value = content(mad)
        save(mad, {"camera_angle_x": ANGLE})
        refused(mad, "'frames'")
        del value["frames"][1]["file_path"]
        save(mad, value)
        refused(mad, "frame 1", "file_path")

    @pytest.mark.parametrize("text", ["{", "", "[1, 2]"])
    def test_invalid_json(self, mad, text):
        (mad / "transforms.json").write_text(text)
        refused(mad, "transforms.json", "repair")

    def test_sizes_differ_in_training(self, mad):
        write_image(mad / "train/good/7.png", picture(0, height=20))
        refused(mad, "7.png", "24 x 20", "24 x 16")

    @pytest.mark.parametrize("where", ["test/good/2.png", "test/Burrs/0.png", "test/5.png"])
    def test_test_image_of_another_size(self, mad, where):
        write_image(mad / where, picture(0, width=30))
        refused(mad, where, "30 x 16", "24 x 16", "proportions")

    def test_mask_of_another_size(self, mad):
        write_image(mad / "ground_truth/Burrs/2_mask.png", np.zeros((8, 12), np.uint8))
        refused(mad, "2_mask.png", "12 x 8")

    def test_missing_mask(self, mad):
        (mad / "ground_truth/Burrs/10_mask.png").unlink()
        refused(mad, "10_mask.png", "needs its mask")

    def test_no_category(self, tmp_path):
        refused(tmp_path, "transforms.json", "transforms_train.json")

    def test_what_is_not_fatal_is_said(self, mad, caplog):
        write_image(mad / "train/good/12.png", picture(0))
        (mad / "test/Burrs/notes.txt").write_text("seen")
        write_image(mad / "ground_truth/Burrs/0_mask.png", np.zeros((HEIGHT, WIDTH), np.uint8))
        with caplog.at_level("WARNING"):
            category = read_category(mad)
            load_test(category, category.test[3])
        assert len(category.train) == 12
        assert "12.png" in caplog.text
        assert "notes.txt" in caplog.text
        assert "0_mask.png is empty" in caplog.text


class TestNerfLayout:
    @pytest.fixture
    def nerf(self, tmp_path):
        root = tmp_path / "lego"
        for part in ("train", "test"):
            (root / part).mkdir(parents=True)
            frames = []
            for i in range(11):
                write_image(root / part / f"r_{i}.png", picture(i, channels=4))
                pose = c2w(0.3 * i).tolist()
                frames.append({"file_path": f"./{part}/r_{i}", "transform_matrix": pose})
            text = json.dumps({"camera_angle_x": ANGLE, "frames": frames})
            (root / f"transforms_{part}.json").write_text(text)
        write_image(root / "test/r_0_depth_0001.png", picture(0))
        return root

    def test_reads(self, nerf):
        category = read_category(nerf)
        assert [view.path.name for view in category.train] == [f"r_{i}.png" for i in range(11)]
        assert [image.name for image in category.test] == [f"good/r_{i}" for i in range(11)]
        assert category.kinds == ("good",)
        assert not category.test[0].defective
        np.testing.assert_allclose(category.test[10].viewmat, viewmat_from_c2w(c2w(3.0)))
        black = load_train(category, background=(0.0, 0.0, 0.0)).images[0]
        white = load_train(category).images[0]
        alpha = picture(0, channels=4)[..., 3:] / 255
        np.testing.assert_allclose(
            white - black, np.broadcast_to(1 - alpha, white.shape), atol=1e-6
        )

    def test_validation_stands_in_for_test(self, nerf):
        (nerf / "transforms_test.json").rename(nerf / "transforms_val.json")
        assert len(read_category(nerf).test) == 11


def cameras(heights, azimuths) -> np.ndarray:
    """Viewmats of cameras at distance 3 that look at the origin."""
    rings = np.sqrt(1.0 - np.square(heights))
    eyes = 3.0 * np.stack([rings * np.cos(azimuths), rings * np.sin(azimuths), heights], axis=1)
    return np.stack([look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0])) for eye in eyes])


def all_around(number: int) -> np.ndarray:
    return cameras(np.linspace(-0.95, 0.95, number), 2.4 * np.arange(number))


def film(number: int) -> np.ndarray:
    """Frames of a camera that goes four times around the object."""
    return cameras(np.linspace(-0.7, 0.7, number), 8.0 * np.pi * np.arange(number) / number)


def angles(viewmats, others) -> np.ndarray:
    """[n, m] degrees between viewing directions."""
    cosines = viewmats[:, 2, :3] @ others[:, 2, :3].T
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


class TestHoldingOut:
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
    @pytest.mark.parametrize("viewmats", [all_around(60), film(300)], ids=["sphere", "film"])
    def test_the_share_is_about_kept(self, viewmats, share):
        held = hold_out_blocks(viewmats, share)
        assert held.tolist() == sorted(set(held.tolist()))
        assert held[0] >= 0 and held[-1] < len(viewmats)
        assert len(held) / len(viewmats) == pytest.approx(share, abs=0.025)
        assert len(held) <= len(viewmats) / 2
        np.testing.assert_array_equal(held, hold_out_blocks(viewmats, share))

    @pytest.mark.parametrize("number", [5, 8, 13, 30])
    def test_of_views_far_apart_too(self, number):
        """They are 30 degrees apart and more: each is a block of its own."""
        for share in (0.2, 0.3):
            assert len(hold_out_blocks(all_around(number), share)) == round(share * number)

    @pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    def test_never_more_than_half_and_none_of_too_few(self, number):
        for share in (0.1, 0.3, 0.5):
            held = hold_out_blocks(all_around(number), share)
            assert len(held) <= number // 2
            assert (len(held) == 0) == (round(share * number) == 0 or number < 2)
            assert np.issubdtype(held.dtype, np.integer)

    def test_from_all_sides(self):
        viewmats = all_around(60)
        held = hold_out_blocks(viewmats, 0.2)
        assert angles(viewmats, viewmats[held]).min(axis=1).max() < 60.0

    def test_near_duplicates_of_a_view_go_with_it(self):
        """Three frames from about each place: a frame left behind would give its place away."""
        rng = np.random.default_rng(0)
        places = np.repeat(np.arange(40), 3)
        shaken = rng.normal(scale=0.004, size=(2, 120))
        heights, azimuths = np.linspace(-0.9, 0.9, 40)[places], 2.4 * places
        viewmats = cameras(heights + shaken[0], azimuths + shaken[1])
        for share in (0.1, 0.2, 0.4):
            held = hold_out_blocks(viewmats, share)
            times = np.bincount(places[held], minlength=40)
            assert set(times) == {0, 3}, share

    def test_held_out_views_are_as_far_from_the_others_as_an_image_from_anywhere(self):
        """In a film the next frame would be a degree or two away."""
        viewmats = film(600)
        held = hold_out_blocks(viewmats, 0.2)
        kept = np.delete(viewmats, held, axis=0)
        distances = angles(viewmats[held], kept).min(axis=1)
        rng = np.random.default_rng(0)
        anywhere = cameras(rng.uniform(-0.7, 0.7, 500), rng.uniform(0.0, 2.0 * np.pi, 500))
        usual = np.median(angles(anywhere, viewmats).min(axis=1))
        step = np.median(np.diagonal(angles(viewmats[:-1], viewmats[1:])))
        assert usual > 2.0 * step
        assert 0.7 * usual < np.median(distances) < 2.0 * usual
