"""Job files: YAML that describes a job, its schedule and its cluster."""
