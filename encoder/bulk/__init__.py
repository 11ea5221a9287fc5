"""Embedding whole files: streamed, resumable, into Parquet; and moving such a file to another head version.

Needs the extra `bulk` (pyarrow), and `ray` for the engine of that name. Usable without any service.
"""
