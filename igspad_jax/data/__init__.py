"""Reading and making data: images, categories of posed images, a procedural toy."""

from igspad_jax.data.category import (
    GOOD,
    UNLABELLED,
    Category,
    LoadedTest,
    LoadedViews,
    TestImage,
    TrainView,
    hold_out_blocks,
    load_defect,
    load_test,
    load_train,
)
from igspad_jax.data.colmap import Structure
from igspad_jax.data.images import (
    load_image,
    load_mask,
    prepare_image,
    read_image,
    to_uint8,
    write_image,
)
from igspad_jax.data.layouts import images_in, list_categories, read_category
from igspad_jax.data.lenses import Lens, WorkingCamera, lens_for
from igspad_jax.data.photographs import Photograph
