"""What exists, who may touch it, what is to be done: the only package that knows SQL."""
