"""Published data sets and one's own: reading them, asking their questions, scoring the answers."""
