"""Fine-tuning: a table of clips, prompts and answers to a checkpoint that answers them."""
