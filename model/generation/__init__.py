"""Text for many requests at once: batches by their size in memory, and a decoder that drops texts as they end."""
