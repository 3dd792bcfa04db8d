"""Draws a finished run; the same as the console command `igspad-report`."""

from igspad_jax.commands.report import run

if __name__ == "__main__":
    run()
