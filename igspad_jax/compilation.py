"""Compiled programs that later processes find on disk."""

import os

import jax

from igspad_jax.networks.wheels import cache_folder


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX is told of another place.

    The folder is `~/.cache/igspad_jax/compiled`, or `$IGSPAD_JAX_CACHE/compiled`; it may be deleted
    at any time.
    """
    told = {"JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"} & set(os.environ)
    if told or jax.config.values.get("jax_compilation_cache_dir"):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
