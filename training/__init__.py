"""The training program: export, contrastive fitting, and the worker that runs retrain jobs. The only torch here."""
