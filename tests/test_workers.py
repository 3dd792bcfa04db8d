"""Independent tasks, in this process and on a Ray cluster of this machine."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from igspad_jax.data import read_category
from igspad_jax.errors import InputError
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.training import train_category
from igspad_jax.train.checkpoints import Checkpoints
from igspad_jax.workers import run_tasks
from test_pipeline import SETTINGS, toy  # noqa: F401


@pytest.mark.parametrize("cluster", [None, "local"])
def test_outcomes_and_a_worker_that_dies(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def work(number: int) -> int:  # travels to the workers by value
        if cluster and number == 4 and not Path("tried").exists():
            Path("tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number % 2:
            raise InputError(f"{number} is odd")
        return number // 2

    outcomes = dict(run_tasks(work, [2, 3, 4], cluster))
    assert outcomes[2] == 1 and outcomes[4] == 2
    assert isinstance(outcomes[3], InputError) and str(outcomes[3]) == "3 is odd"
    assert Path("tried").exists() == bool(cluster)


def test_a_cluster_that_is_not_there():
    with pytest.raises(InputError, match=r"--ray=127\.0\.0\.1:1: .*start the cluster"):
        next(run_tasks(str, [1], "127.0.0.1:1"))


@pytest.mark.slow
def test_objects_on_two_workers_of_which_one_dies(toy, tmp_path):  # noqa: F811
    """Killed in the middle of a training, which goes on elsewhere to the same bits."""
    roots = []
    for number in range(4):
        root = shutil.copytree(toy, tmp_path / f"data/toy{number}")
        path = root / "transforms.json"
        content = json.loads(path.read_text())
        del content["frames"][number]  # so that they differ
        path.write_text(json.dumps(content))
        roots.append(root)
    settings, died = SETTINGS, tmp_path / "died"

    def fitted(root: Path, place: Path) -> RunFolder:
        folder = RunFolder(place / root.name)
        train_category(read_category(root), folder, settings)
        return folder

    def work(root: Path) -> bytes:
        save = Checkpoints.save

        def save_and_die(self, *args, **kwargs):
            save(self, *args, **kwargs)
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        if root.name == "toy1":
            Checkpoints.save = save_and_die
        return (fitted(root, tmp_path / "ray").object / "scene.ply").read_bytes()

    outcomes = dict(run_tasks(work, roots, "local"))
    assert died.exists()
    for root in roots:
        alone = fitted(root, tmp_path / "alone").object / "scene.ply"
        assert outcomes[root] == alone.read_bytes(), root.name
