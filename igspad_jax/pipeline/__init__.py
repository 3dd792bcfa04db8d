"""The stages of a run, each reading and writing one run folder."""
