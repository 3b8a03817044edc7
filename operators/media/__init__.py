"""Reading video files: what they are, and which frames they hold when."""
