"""Scripts that run other tools in their own environments; they import nothing of this project."""
