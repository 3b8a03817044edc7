"""The Ray cluster that a run uses."""
