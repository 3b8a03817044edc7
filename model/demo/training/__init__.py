"""How the demo checkpoint is made: ``python -m malmm.model.demo.training DIR``."""
