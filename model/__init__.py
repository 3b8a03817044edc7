"""MA-LMM's memory, model families and towers, in PyTorch. Imports nothing else of this project."""
