"""Command-line programs: parse, build a configuration, call the pipeline."""
