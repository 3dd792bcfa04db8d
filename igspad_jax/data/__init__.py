"""Reading and making data: images, categories of posed images, a procedural toy."""

from igspad_jax.data.category import (
    Category,
    LoadedTest,
    LoadedViews,
    TestImage,
    TrainView,
    intrinsics,
    load_test,
    load_train,
    split_held_out,
)
from igspad_jax.data.images import load_image, load_mask, read_image, to_uint8, write_image
from igspad_jax.data.layouts import list_categories, read_category

__all__ = [
    "Category",
    "LoadedTest",
    "LoadedViews",
    "TestImage",
    "TrainView",
    "intrinsics",
    "list_categories",
    "load_image",
    "load_mask",
    "load_test",
    "load_train",
    "read_category",
    "read_image",
    "split_held_out",
    "to_uint8",
    "write_image",
]
