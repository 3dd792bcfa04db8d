"""Fits objects; the same as the console command `igspad-train`."""

from igspad_jax.commands.train import run

if __name__ == "__main__":
    run()
