"""The errors a user can meet. Each message says what was wrong, what was expected, what to do."""

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended, as shells have it


class SltoolsError(Exception):
    """Base class: `except SltoolsError` catches everything this library raises on purpose."""


class Interrupted(SltoolsError):
    """Ctrl-C came before there was anything to report."""


class DataError(SltoolsError):
    """A data set is unknown, missing, corrupt or of the wrong shape."""


class ModelError(SltoolsError):
    """A network cannot be cut, described or built as asked."""


class ProtocolError(SltoolsError):
    """A party received a message that the split learning protocol does not allow."""


class HostError(SltoolsError):
    """The party on another host did not come, is gone or silent, or ended the run."""


class NotObservable(SltoolsError):
    """A party reached for something that split learning does not show it."""


class AttackError(SltoolsError):
    """An attack was given settings or observations it cannot work with."""


class LessonError(SltoolsError):
    """A lesson or one of its parameters does not exist, or a lesson failed to run."""


class ExerciseError(SltoolsError):
    """A task or a submission does not exist or cannot be handled as asked."""


class DefenseError(SltoolsError):
    """A defence was given settings or data it cannot work with."""
