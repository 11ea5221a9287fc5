"""One file a schema change, in order; a released one is never edited."""
