"""Model families: how one kind of multimodal model turns frames into tokens and memory into text."""
