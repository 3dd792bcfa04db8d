"""Inspects photographs; the same as the console command `igspad-inspect`."""

from igspad_jax.commands.inspect import run

if __name__ == "__main__":
    run()
