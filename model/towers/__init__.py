"""Models that turn slots and queries into vectors that can be compared."""
