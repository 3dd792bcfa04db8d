"""Independent tasks: one after another in this process, or on the workers of a Ray cluster."""

import logging as logging_module
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from absl import logging

from igspad_jax.compilation import use_compilation_cache
from igspad_jax.errors import InputError
from igspad_jax.progress import show_notes

_RETRIES = 3  # of a task whose worker died

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    work: Callable[[Task], Result], tasks: Sequence[Task], cluster: str | None
) -> Iterator[tuple[Task, Result | InputError]]:
    """Do tasks on a Ray cluster, or one after another in this process.

    A task whose worker dies is tried again, on another worker. What workers print is printed here.
    The machines of a cluster need the same version of this package, and the same files under the
    same names.

    Args:
        work: does a task; it and what it returns must be fit for pickling.
        tasks: of any kind.
        cluster: its address, or "auto" for the one that runs here, or, if none does, one of this
            machine's processors; None for this process.

    Yields:
        A task and what `work` returned, or the `InputError` that it raised, as the tasks end.

    Raises:
        InputError: if there is no such cluster.
    """
    if cluster is None:
        for task in tasks:
            yield task, _outcome(work, task)
        return
    ray = _connected(cluster)
    try:
        cpus, gpus = _processors(ray, len(tasks)), 1 if ray.cluster_resources().get("GPU") else 0
        # XLA would start as many threads in each worker as its machine has processors.
        threads = {"env_vars": {"NPROC": str(cpus), "OMP_NUM_THREADS": str(cpus)}}
        remote = ray.remote(
            max_retries=_RETRIES, num_cpus=cpus, num_gpus=gpus, runtime_env=threads
        )(_outcome_there)
        given = ray.put(work)
        pending = {remote.remote(given, task, Path.cwd()): task for task in tasks}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayTaskError:  # a fault in `work`, not in the cluster
                raise
            except ray.exceptions.RayError as error:
                words = " ".join(str(error).split())
                outcome = InputError(f"its worker died {_RETRIES + 1} times: {words}")
            yield task, outcome
    finally:
        ray.shutdown()


def _processors(ray: Any, tasks: int) -> int:
    """Processors of a task: its share of the cluster, and no more than any machine has."""
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    machines = [processors for processors in machines if processors] or [1]
    return max(1, min(*machines, sum(machines) // max(tasks, 1)))


def _connected(address: str) -> Any:
    """The module `ray`, connected to a cluster."""
    try:
        import ray  # optional, and slow to import
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'igspad-jax[ray]'") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would call home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers see what we see
    try:
        place = urlsplit(address if "//" in address else f"//{address}")
        if place.port:  # Ray itself would try for minutes
            socket.create_connection((place.hostname, place.port), timeout=10).close()
        ray.init(address=None if address == "auto" else address, logging_level=logging_module.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise InputError(
            f"--ray={address}: {words}; start the cluster, or correct the address; a cluster that "
            "asks for a token takes RAY_AUTH_MODE=token in the environment"
        ) from error
    logging.info("Ray: %d processors", ray.cluster_resources().get("CPU", 0))
    return ray


def _outcome_there(work: Callable[[Task], Result], task: Task, folder: Path) -> Result | InputError:
    """What `work` makes of a task, in a worker, in the folder that the command was given in."""
    os.chdir(folder)
    show_notes()
    use_compilation_cache()
    return _outcome(work, task)


def _outcome(work: Callable[[Task], Result], task: Task) -> Result | InputError:
    try:
        return work(task)
    except InputError as error:
        return error
