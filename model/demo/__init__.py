"""Drawn videos for trying things out."""
