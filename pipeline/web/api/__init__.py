"""Routes and the records that they answer with."""
