"""Checkpoints that commands make."""
