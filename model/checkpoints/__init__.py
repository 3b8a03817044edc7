"""Find, open and verify checkpoints."""
