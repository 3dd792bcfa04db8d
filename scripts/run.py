"""Runs all stages; the same as the console command `igspad-run`."""

from igspad_jax.commands.run import run

if __name__ == "__main__":
    run()
