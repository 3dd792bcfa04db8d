"""Downloads pretrained weights; the same as the console command `igspad-fetch-weights`."""

from igspad_jax.commands.fetch_weights import run

if __name__ == "__main__":
    run()
