"""The errors that users see. Each message names the thing, the value that was wrong and the remedy."""


class AgevlmError(Exception):
    """Base of every error that agevlm raises on purpose; the command line prints it without a traceback."""


class ConfigError(AgevlmError):
    """A recipe, parameter or setting is wrong."""


class DataError(AgevlmError):
    """Input data cannot be used as it is, or too much of it was rejected."""


class ArtifactError(AgevlmError):
    """An artifact is missing, incomplete, stale or does not match its manifest."""


class StepError(AgevlmError):
    """A step ran and failed."""


class TransientError(StepError):
    """A step failed for a reason that may be gone: a process of it was killed, or memory was short."""


class ImageError(DataError):
    """An image cannot be used. `reason` is a short name to count by; the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Pickle with both arguments, so that the error can return from a worker process."""
        return type(self), (self.reason, str(self))
