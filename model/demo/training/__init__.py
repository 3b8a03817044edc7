"""Training of the demo checkpoint: ``python -m malmm.model.demo.training DIR``."""
