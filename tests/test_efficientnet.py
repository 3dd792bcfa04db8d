"""EfficientNet-Lite0 and its features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.detect.dense import EfficientNetFeatures
from igspad_jax.errors import InputError
from igspad_jax.networks.efficientnet import STRIDES, read_efficientnet
from igspad_jax.networks.tensors import Tensors

# Channels in, channels out, kernel size and stride of each block that stride 16 needs.
BLOCKS = (
    (32, 16, 3, 1),
    (16, 24, 3, 2), (24, 24, 3, 1),
    (24, 40, 5, 2), (40, 40, 5, 1),
    (40, 80, 3, 2), (80, 80, 3, 1), (80, 80, 3, 1),
    (80, 112, 5, 1), (112, 112, 5, 1), (112, 112, 5, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, np.ndarray]:
    """Random tensors, named and shaped as those of the published network."""
    random, tensors = np.random.default_rng(0), {}

    def conv(name: str, out: int, into: int, size: int) -> None:
        shape = (out, into, size, size)
        tensors[f"{name}.weight"] = random.normal(size=shape) / np.sqrt(into * size * size)

    def norm(name: str, channels: int) -> None:
        tensors[f"{name}.weight"] = random.normal(1.0, 0.2, channels)
        tensors[f"{name}.bias"] = random.normal(0.0, 0.3, channels)
        tensors[f"{name}.running_mean"] = random.normal(0.0, 0.3, channels)
        tensors[f"{name}.running_var"] = random.uniform(0.5, 1.5, channels)
        tensors[f"{name}.num_batches_tracked"] = np.array(1)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for i, (into, out, size, _) in enumerate(BLOCKS):
        own, wide = f"_blocks.{i}", 6 * into if i else into
        if i:
            conv(f"{own}._expand_conv", wide, into, 1)
            norm(f"{own}._bn0", wide)
        conv(f"{own}._depthwise_conv", wide, 1, size)
        norm(f"{own}._bn1", wide)
        conv(f"{own}._project_conv", out, wide, 1)
        norm(f"{own}._bn2", out)
    conv("_conv_head", 8, 320, 1)
    norm("_bn1", 8)
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}


def in_pytorch(checkpoint: dict[str, np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """The features after each stage, by PyTorch, batch norms not folded."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.from_numpy(value) for name, value in checkpoint.items()}

    def conv(x, name, norm, stride=1):
        kernel = t[f"{name}.weight"]
        size, margins = kernel.shape[-1], []
        for n in (x.shape[3], x.shape[2]):  # TensorFlow's "SAME": the odd pixel comes last
            total = max((-(-n // stride) - 1) * stride + size - n, 0)
            margins += [total // 2, total - total // 2]
        groups = x.shape[1] // kernel.shape[1]
        x = functional.conv2d(functional.pad(x, margins), kernel, stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(t[f"{norm}.{part}"] for part in names), eps=1e-3)

    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = functional.relu6(conv(x, "_conv_stem", "_bn0", 2))
    stages = []
    for i, (into, out, _, stride) in enumerate(BLOCKS):
        own, past = f"_blocks.{i}", x
        if i:
            x = functional.relu6(conv(x, f"{own}._expand_conv", f"{own}._bn0"))
        x = functional.relu6(conv(x, f"{own}._depthwise_conv", f"{own}._bn1", stride))
        x = conv(x, f"{own}._project_conv", f"{own}._bn2")
        x = x + past if into == out and stride == 1 else x
        if i in (0, 2, 4, 10):
            stages.append(x.permute(0, 2, 3, 1).numpy())
    return stages


@pytest.mark.parametrize("shape", [(64, 48), (50, 37)])
def test_agrees_with_pytorch(checkpoint, shape):
    images = np.random.default_rng(1).normal(size=(2, *shape, 3)).astype(np.float32)
    network, params = read_efficientnet(Tensors(checkpoint, "test"))
    found = jax.jit(network.apply)(params, images)
    expected = in_pytorch(checkpoint, images)
    assert len(found) == len(expected) == len(STRIDES)
    for own, other, stride in zip(found, expected, STRIDES, strict=True):
        assert own.shape[1:3] == tuple(-(-n // stride) for n in shape)
        np.testing.assert_allclose(own, other, atol=1e-4 * other.std(), rtol=0.0)


def test_fewer_stages_are_the_first_ones(checkpoint):
    images = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    network, params = read_efficientnet(Tensors(checkpoint, "test"))
    short, short_params = read_efficientnet(Tensors(checkpoint, "test"), 2)
    found = short.apply(short_params, images)
    for own, other in zip(found, network.apply(params, images), strict=False):
        np.testing.assert_array_equal(own, other)
    assert len(found) == 2 and len(short_params["params"]) < len(params["params"])


def test_another_network_is_refused(checkpoint):
    lacking = {name: t for name, t in checkpoint.items() if "_blocks.3._project" not in name}
    with pytest.raises(InputError, match=r"missing.*_blocks\.3\._project_conv"):
        read_efficientnet(Tensors(lacking, "test"))
    with pytest.raises(InputError, match="unused: other"):
        read_efficientnet(Tensors(checkpoint | {"other": np.zeros(1)}, "test"))


@pytest.mark.parametrize("stride", [4, 8])
def test_features_lie_where_the_image_has_them(checkpoint, stride):
    """A change in the middle of the image changes the features about there, not to one side."""
    even = {n: 0.5 * (t + t[..., ::-1, ::-1]) if t.ndim == 4 else t for n, t in checkpoint.items()}
    extractor = EfficientNetFeatures(Tensors(even, "test"), stride)
    image = np.full((1, 400, 400, 3), 0.5, np.float32)
    changed = image.copy()
    changed[:, 196:204, 196:204] = 0.0
    found = [np.asarray(extractor(jnp.asarray(x)), np.float64) for x in (image, changed)]
    assert found[0].shape[:3] == (1, 400 // stride, 400 // stride)
    change = np.abs(found[1] - found[0]).sum(axis=(0, 3))
    places = (np.arange(len(change)) + 0.5) * stride
    centre = (change @ places).sum() / change.sum(), (places @ change).sum() / change.sum()
    np.testing.assert_allclose(centre, 200.0, atol=0.75)


def test_small_images_are_enlarged_and_batches_equal_single_images(checkpoint):
    extractor = EfficientNetFeatures(Tensors(checkpoint, "test"), 8)
    images = jnp.asarray(np.random.default_rng(0).random((2, 90, 200, 3)).astype(np.float32))
    both = np.asarray(extractor(images))
    assert both.shape == (2, 22, 50, 40)
    for i in range(2):
        np.testing.assert_allclose(extractor(images[i : i + 1])[0], both[i], atol=1e-5)
