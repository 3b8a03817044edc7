"""Finding, opening and verifying checkpoints."""
