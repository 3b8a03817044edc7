"""Running jobs by their schedules, as a service."""
