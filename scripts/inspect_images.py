"""Inspects photographs of a trained object; the console command `igspad-inspect` does the same.

python scripts/inspect_images.py --object=runs/demo data/toy/test/Burrs/0.png
"""

from igspad_jax.commands.inspect import run

if __name__ == "__main__":
    run()
