"""Routes of the API and their response models."""
