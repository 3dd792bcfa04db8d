"""Independent tasks, in this process and on a Ray cluster of this machine."""

import os
import signal
from pathlib import Path

import pytest

from igspad_jax.errors import InputError
from igspad_jax.workers import run_tasks


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
