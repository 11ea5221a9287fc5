"""What is told of a version: one self-contained HTML page, and a model card as JSON."""
