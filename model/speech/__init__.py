"""Models that recognise speech."""
