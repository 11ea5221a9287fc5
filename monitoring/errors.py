"""What monitoring refuses, one class a reason; messages name numbers and digests, never a caller's text."""


class MonitoringError(Exception):
    """Everything this package raises on purpose."""


class VectorsRefused(MonitoringError, ValueError):
    """Vectors, labels or scores of a shape or content that cannot be judged."""


class ReferenceRefused(MonitoringError, ValueError):
    """Stored bytes that are no reference, or a reference of an unknown format."""


class ReferenceMismatch(MonitoringError, ValueError):
    """Counts or a state made against another reference: they must not be added or resumed."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"made against reference {found[:12]}…, this one is {expected[:12]}…")
        self.expected = expected
        self.found = found


class StateRefused(MonitoringError, ValueError):
    """A stored window or monitor state that is damaged or of an unknown format."""


class RecipeRefused(MonitoringError, ValueError):
    """A recipe names an unknown field or a value out of range."""


class RulesRefused(MonitoringError, ValueError):
    """Rules of a rollout name an unknown field or a value out of range."""


class TracingUnusable(MonitoringError):
    """Traces are asked for and cannot be sent; the message says what to do and never shows an address."""
