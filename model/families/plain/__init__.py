"""What families without a Q-Former share: a bank over projected tokens, chat text, one prefill for many prompts."""
