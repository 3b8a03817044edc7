"""InstructBLIP: vision encoder, Q-Former with memory banks, language model."""
