"""Inspects and measures test images; the same as the console command `igspad-evaluate`."""

from igspad_jax.commands.evaluate import run

if __name__ == "__main__":
    run()
