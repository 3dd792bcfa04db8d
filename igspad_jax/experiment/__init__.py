"""Experiments with the pose engine: how far each method reaches, and what it costs."""

from igspad_jax.experiment.film import film_test, make_film
from igspad_jax.experiment.gradients import compare_gradients, gradient_table
from igspad_jax.experiment.measures import SUCCESS
from igspad_jax.experiment.methods import METHODS, check_methods
from igspad_jax.experiment.parts import features_table, matchers_table
from igspad_jax.experiment.plots import write_convergence, write_success
from igspad_jax.experiment.runs import grid, run_grid
from igspad_jax.experiment.starts import Level, parse_levels
from igspad_jax.experiment.subjects import Source, Subject, Trial, rendered, select_tests
from igspad_jax.experiment.tables import experiment_tables, markdown, results

__all__ = [
    "METHODS",
    "SUCCESS",
    "Level",
    "Source",
    "Subject",
    "Trial",
    "check_methods",
    "compare_gradients",
    "experiment_tables",
    "features_table",
    "film_test",
    "gradient_table",
    "grid",
    "make_film",
    "markdown",
    "matchers_table",
    "parse_levels",
    "rendered",
    "results",
    "run_grid",
    "select_tests",
    "write_convergence",
    "write_success",
]
