"""Published checkpoints: their configurations, licences and sizes, from public sources that each file names."""
