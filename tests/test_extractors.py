import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.detect import feature_distance
from igspad_jax.detect.extractors import Pretrained, resample, sam_input
from igspad_jax.errors import InputError
from igspad_jax.networks.cait import read_cait
from igspad_jax.networks.resnet import read_resnet
from igspad_jax.networks.sam import read_sam
from igspad_jax.networks.tensors import Tensors
from originals import original

# Windows of 4 in a grid of 10.
SMALL_SAM = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 80,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": (1,),
}
SMALL_CAIT = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}


def randomise(model):
    """Values like a trained network's: nothing near zero, and signals that neither grow nor die."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def noise(tensor, mean, deviation):
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1 and name.endswith(("weight", "gamma_1", "gamma_2")):
                noise(tensor, 1.0, 0.2)
            elif name.endswith("weight"):
                noise(tensor, 0.0, tensor[0].numel() ** -0.5)
            elif tensor.is_floating_point():
                noise(tensor, 0.0, 0.3)
    return model.eval()


def arrays(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def tensors_of(model) -> Tensors:
    return Tensors(arrays(model), "test")


def noise_images(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_images(images: np.ndarray):
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2)


def channels_last(features) -> np.ndarray:
    return features.detach().permute(0, 2, 3, 1).numpy()


def features(build, tensors: Tensors, images: np.ndarray, dtype=jnp.float32, **changed):
    network, params = build(tensors, dtype)
    return jax.jit(network.clone(**changed).apply)(params, images)


def sam_model(**config):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    return randomise(transformers.SamVisionModel(transformers.SamVisionConfig(**config)))


def sam_original(model, images: np.ndarray) -> np.ndarray:
    return channels_last(model(torch_images(images)).last_hidden_state)


def timm_model(name: str, **config):
    return randomise(original("timm").create_model(name, **config))


def cait_original(model, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        (found,) = model.forward_intermediates(
            torch_images(images), indices=1, intermediates_only=True
        )
    return channels_last(found)


def resnet_original(model, images: np.ndarray) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(torch_images(images)))))
        found = [x := stage(x) for stage in (model.layer1, model.layer2, model.layer3)]
    return [channels_last(x) for x in found]


def close(found, expected, tolerance: float = 5e-5) -> None:
    """Compares features; the tolerance is a share of their deviation."""
    np.testing.assert_allclose(found, expected, atol=tolerance * np.std(expected), rtol=0.0)


@pytest.fixture(scope="module")
def small_sam():
    return sam_model(**SMALL_SAM)


@pytest.fixture(scope="module")
def small_cait():
    return timm_model("cait_xxs24_224", **SMALL_CAIT)


@pytest.fixture(scope="module")
def resnet18():
    return timm_model("resnet18")


def test_sam_agrees_with_the_original(small_sam):
    images = noise_images((2, 80, 80, 3))
    expected = sam_original(small_sam, images)
    whole = features(read_sam, tensors_of(small_sam), images)
    assert whole.shape == (2, 10, 10, 256)
    close(whole, expected)
    # Windows one by one, queries by five.
    blocks = features(read_sam, tensors_of(small_sam), images, at_once=500)
    close(blocks, expected)
    rough = features(read_sam, tensors_of(small_sam), images, jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert 1e-7 < feature_distance(rough, whole).max() < 1e-3


def test_kernels_have_the_dtype_of_products(small_sam, small_cait, resnet18):
    for build, model in ((read_sam, small_sam), (read_cait, small_cait), (read_resnet, resnet18)):
        _, params = build(tensors_of(model), jnp.bfloat16)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            assert leaf.dtype == (jnp.bfloat16 if path[-1].key == "kernel" else np.float32)


def test_sam_reads_whole_checkpoints_and_encoders(small_sam):
    import transformers

    config = transformers.SamConfig(vision_config=small_sam.config)
    whole = transformers.SamModel(config)
    whole.vision_encoder.load_state_dict(small_sam.vision_encoder.state_dict())
    _, expected = read_sam(tensors_of(small_sam))
    for model in (whole, small_sam.vision_encoder):
        _, params = read_sam(tensors_of(model))
        jax.tree.map(np.testing.assert_array_equal, params, expected)


def weightless(make) -> Tensors:
    """The tensors of a model that is made without any memory."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in make().state_dict().items()}
    zero = np.zeros((), np.float32)
    return Tensors({name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}, "test")


def millions(params) -> float:
    return round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2)


def test_sam_reads_the_names_of_segment_anything(small_sam):
    """Those of transformers' own converter, the other way round."""
    names = {
        "vision_encoder.": "image_encoder.",
        "projection.": "proj.",
        "neck.conv1.": "neck.0.",
        "neck.layer_norm1.": "neck.1.",
        "neck.conv2.": "neck.2.",
        "neck.layer_norm2.": "neck.3.",
        ".layers.": ".blocks.",
        ".layer_norm": ".norm",
    }
    state = {}
    for name, tensor in small_sam.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = tensor.numpy()
    assert "image_encoder.blocks.0.norm1.weight" in state
    state["mask_decoder.iou_token.weight"] = np.zeros((1, 4), np.float32)
    expected = read_sam(tensors_of(small_sam))
    encoder, params = read_sam(Tensors(state, "test"))
    assert encoder == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])


@pytest.mark.parametrize(
    ("width", "depth", "heads", "everywhere", "size"),
    [
        (768, 12, 12, (2, 5, 8, 11), 89.67),
        (1024, 24, 16, (5, 11, 17, 23), 308.28),
        (1280, 32, 16, (7, 15, 23, 31), 637.03),
    ],
    ids=["base", "large", "huge"],
)
def test_sizes_of_sam(width, depth, heads, everywhere, size):
    transformers = pytest.importorskip("transformers")
    config = transformers.SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        global_attn_indexes=everywhere,
    )
    encoder, params = read_sam(weightless(lambda: transformers.SamVisionModel(config)))
    assert millions(params) == size
    assert (encoder.width, encoder.heads, encoder.side) == (width, heads, 1024)
    assert encoder.windows == tuple(64 if i in everywhere else 14 for i in range(depth))


def test_sizes_of_timms_networks():
    timm = original("timm")
    network, params = read_cait(weightless(lambda: timm.create_model("cait_m48_448")))
    assert (network.layers, network.heads, network.side) == (48, 16, 448)
    # Of 356.46 million, without the class token's two layers, the last norm and the classifier.
    assert millions(params) == 341.51
    network, params = read_resnet(weightless(lambda: timm.create_model("resnet18")))
    assert (network.blocks, network.channels) == ((2, 2, 2), (64, 128, 256))
    network, params = read_resnet(weightless(lambda: timm.create_model("wide_resnet50_2")))
    assert (network.blocks, network.channels) == ((3, 4, 6), (256, 512, 1024))


@pytest.mark.parametrize("size", [(64, 80), (2, 200)], ids=["upright", "strip"])
def test_sam_input_equals_that_of_its_processor(size):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    height, width = 13 * size[0], 11 * size[1]
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = SamImageProcessorPil()(levels, return_tensors="np")["pixel_values"]
    found = np.asarray(sam_input(jnp.asarray(levels[None] / np.float32(255)), 1024))
    level = 1.0 / 255 / 0.224
    difference = np.abs(found - np.moveaxis(expected, 1, -1))
    assert difference.max() < 1.6 * level  # rounded after the rows, and again after the columns
    assert difference.mean() < 0.5 * level
    assert np.array_equal(found == 0.0, np.moveaxis(expected, 1, -1) == 0.0)


def test_cait_agrees_with_the_original(small_cait):
    images = noise_images((2, 64, 64, 3))
    found = features(read_cait, tensors_of(small_cait), images)
    assert found.shape == (2, 4, 4, 48)
    expected = cait_original(small_cait, images)
    close(found, expected)
    blocks = features(read_cait, tensors_of(small_cait), images, at_once=256)  # queries by two
    close(blocks, expected)


def test_resnet_agrees_with_the_original(resnet18):
    images = noise_images((2, 50, 64, 3))
    found = features(read_resnet, tensors_of(resnet18), images)
    shapes = [x.shape for x in found]
    assert shapes == [(2, 13, 16, 64), (2, 7, 8, 128), (2, 4, 4, 256)]
    for own, other in zip(found, resnet_original(resnet18, images), strict=True):
        close(own, other)


def test_bottlenecks_agree_with_the_original():
    timm = original("timm")
    block = timm.models.resnet.Bottleneck
    model = randomise(timm.models.resnet.ResNet(block, (2, 1, 1, 1), 5, base_width=128))
    images = noise_images((1, 32, 32, 3))
    found = features(read_resnet, tensors_of(model), images)
    for own, other in zip(found, resnet_original(model, images), strict=True):
        close(own, other)


def test_checkpoints_of_other_networks_are_refused(small_sam, small_cait, resnet18):
    models = {read_sam: small_sam, read_cait: small_cait, read_resnet: resnet18}
    for build in models:
        for model in models.values():
            if model is not models[build]:
                with pytest.raises(InputError, match=r"missing: .*; \d+ unused: "):
                    build(tensors_of(model))


@pytest.mark.parametrize(
    ("build", "fixture", "name"),
    [
        (read_sam, "small_sam", "vision_encoder.layers.1.attn.rel_pos_w"),
        (read_cait, "small_cait", "blocks.1.attn.proj_w.bias"),
        (read_resnet, "resnet18", "layer1.1.conv2.weight"),
    ],
)
def test_damaged_checkpoints_are_refused(build, fixture, name, request):
    whole = arrays(request.getfixturevalue(fixture))
    with pytest.raises(InputError, match=f"1 missing: {name}"):
        build(Tensors({key: t for key, t in whole.items() if key != name}, "test"))
    with pytest.raises(InputError, match=r"1 unused: extra\.weight"):
        build(Tensors(whole | {"extra.weight": np.zeros(3)}, "test"))
    with pytest.raises(InputError, match="of another size"):
        build(Tensors(whole | {name: np.tile(whole[name], 3)}, "test"))


def test_networks_refuse_images_of_another_size(small_sam, small_cait):
    for build, model in ((read_sam, small_sam), (read_cait, small_cait)):
        network, params = build(tensors_of(model))
        with pytest.raises(InputError, match=r"not \[B, \d+, \d+, 3\]"):
            network.apply(params, noise_images((1, 64, 80, 3)))


@pytest.mark.parametrize(
    ("name", "fixture", "shape"),
    [
        ("sam-vit-base", "small_sam", (7, 10)),
        ("cait-m48-448", "small_cait", (4, 4)),
        ("resnet18", "resnet18", (38, 56)),
    ],
)
def test_batch_equals_single_images(name, fixture, shape, request):
    extractor = Pretrained(name, tensors_of(request.getfixturevalue(fixture)))
    assert (extractor.name, extractor.tolerance, extractor.edge_discount) == (name, 0, 0.0)
    images = np.random.default_rng(0).random((2, 40, 60, 3)).astype(np.float32)

    both = extractor(jnp.asarray(images))
    assert both.shape[:3] == (2, *shape)
    for i in range(2):
        close(extractor(jnp.asarray(images[i : i + 1]))[0], both[i])


@pytest.mark.parametrize(
    ("name", "fixture", "run", "side"),
    [
        ("sam-vit-base", "small_sam", sam_original, 80),
        ("cait-m48-448", "small_cait", cait_original, 64),
        ("resnet18", "resnet18", resnet_original, 224),
    ],
)
def test_extractors_equal_the_originals(name, fixture, run, side, request):
    model = request.getfixturevalue(fixture)
    images = np.random.default_rng(0).random((1, side, side, 3)).astype(np.float32)
    found = Pretrained(name, tensors_of(model))(jnp.asarray(images))
    mean, deviation = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    expected = run(model, (images - mean) / deviation)
    if name == "resnet18":
        strides = (4, 8, 16)
        sizes = (side, side), (56, 56)
        placed = [resample(x, s, 0.0, *sizes) for x, s in zip(expected, strides, strict=True)]
        expected = np.concatenate(placed, axis=-1)
    close(found, expected)


def test_resampled_features_keep_their_places():
    # Each cell's value is the place of its centre in pixels, as padded convolutions put it.
    places = jnp.asarray(np.stack(np.meshgrid(8.0 * np.arange(7), 8.0 * np.arange(5)), axis=-1))
    found = np.asarray(resample(places[None], 8, 0.0, (40, 56), (20, 28)))[0]
    x, y = np.meshgrid(2.0 * np.arange(28) + 0.5, 2.0 * np.arange(20) + 0.5)
    np.testing.assert_allclose(found[..., 0], np.minimum(x, 48.0), atol=1e-5)
    np.testing.assert_allclose(found[..., 1], np.minimum(y, 32.0), atol=1e-5)


def test_unknown_extractors_are_refused():
    with pytest.raises(InputError, match=r"'sam'; there are sam-vit-base, .*cait-m48-448"):
        Pretrained("sam", Tensors({}, "test"))


def close_at_full_size(name: str, found, expected) -> None:
    """Shows the difference under `pytest -s`."""
    for own, other in zip(found, expected, strict=True):
        difference = np.abs(own - other).max() / other.std()
        print(f"{name}, features {own.shape}: largest difference {difference:.1e} deviations")
        assert difference < 1e-4


@pytest.mark.slow
def test_sam_at_full_size():
    model, images = sam_model(), noise_images((1, 1024, 1024, 3))
    found = features(read_sam, tensors_of(model), images)
    close_at_full_size("SAM ViT-B", [found], [sam_original(model, images)])


@pytest.mark.slow
def test_cait_at_full_size():
    model, images = timm_model("cait_m48_448"), noise_images((1, 448, 448, 3))
    found = features(read_cait, tensors_of(model), images)
    close_at_full_size("CaiT-M48", [found], [cait_original(model, images)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_resnets_at_full_size(name):
    model, images = timm_model(name), noise_images((1, 224, 224, 3))
    found = features(read_resnet, tensors_of(model), images)
    close_at_full_size(name, found, resnet_original(model, images))
