"""Calibrates inspectors; the same as the console command `igspad-calibrate`."""

from igspad_jax.commands.calibrate import run

if __name__ == "__main__":
    run()
