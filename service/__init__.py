"""The HTTP program: embeddings, admin and drift over REST."""

from service.app import create_app
from service.serve import ServeRefused, run
from service.settings import Settings

__all__ = ["ServeRefused", "Settings", "create_app", "run"]
