"""MA-LMM in PyTorch over Hugging Face's InstructBLIP classes. Imports nothing else of this project."""
