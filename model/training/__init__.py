"""Training by the paper's recipe: what both banks hold is detached, and the last step has the gradient."""
