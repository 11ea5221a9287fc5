"""What can go wrong in a retrain, in sentences that are shown to the person who asked for it; never a caller's text."""


class TrainingError(Exception):
    """Base of this package's errors; the message says what happened and what to do next."""


class DataRefused(TrainingError):
    """The dataset cannot be trained on (too few rows, no labels, nothing to tell apart)."""


class FitFailed(TrainingError):
    """The child process that fits the head ended badly, or went on for longer than the recipe allows."""


class ExportFailed(TrainingError):
    """The exported head does not do what the fitted head does."""


class JobCancelled(TrainingError):
    """Somebody asked for the job to stop."""


class WorkerRefused(TrainingError):
    """The worker cannot start, because another one owns the home or the home is not complete."""
