"""Run jobs on their schedules, as a service."""
