"""Checkpoints that survive a kill: saved by orbax, read back from the newest that is whole.

They hold NumPy arrays, independent of the devices.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from absl import logging

from igspad_jax.errors import InputError
from igspad_jax.train.trainer import TrainState

_KEEP = 2


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP, create=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: TrainState, history: list[dict]) -> None:
        """Saves a state and the measurements that led to it; returns once it is on disk."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(jax.device_get(state)),
                history=ocp.args.JsonSave({"history": history}),
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> tuple[TrainState, list[dict]] | None:
        """The newest checkpoint that can be read, or None where there is none at all.

        Damaged checkpoints are deleted with a warning, or training could not save over them.

        Raises:
            InputError: if there are checkpoints, but none that can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(jax.device_get(like)),
                        history=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:  # orbax raises many kinds for a damaged folder
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                logging.warning(
                    "checkpoint %s cannot be read and is skipped: %s",
                    self.folder / str(step),
                    reason,
                )
                continue
            for damaged in [s for s in steps if s > step]:
                self._manager.delete(damaged)
            state = jax.tree.map(jax.numpy.asarray, restored["state"])
            return state, restored["history"]["history"]
        if steps:
            raise InputError(
                f"{self.folder}: none of the checkpoints {', '.join(map(str, steps))} can be read; "
                "delete the folder to train from the start"
            )
        return None

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()
