"""Alembic's home inside the package: env.py and one file a schema change."""
