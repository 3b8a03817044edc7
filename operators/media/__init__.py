"""Reading video files: their properties, and their frames with times."""
