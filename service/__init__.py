"""The HTTP program: embeddings, admin and drift over REST."""
