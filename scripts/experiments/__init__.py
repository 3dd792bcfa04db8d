"""Experiments with the pose engine: how far each method reaches, and what it costs."""

from experiments.film import film_test, make_film
from experiments.gradients import compare_gradients, gradient_table
from experiments.measures import SUCCESS
from experiments.methods import METHODS, check_methods
from experiments.parts import features_table, matchers_table
from experiments.plots import write_convergence, write_success
from experiments.runs import grid, run_grid
from experiments.starts import Level, parse_levels
from experiments.subjects import Source, Subject, Trial, rendered, select_tests
from experiments.tables import experiment_tables, markdown, results
