"""A check of this package's models on the GPU at hand: ``python -m malmm.model.gpucheck``. It downloads nothing."""
