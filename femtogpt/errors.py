"""The one exception that is meant for people."""


class FemtoError(ValueError):
    """Something the user gave cannot be used.

    The message is one line, names the file or option, and says the way out.
    The command line prints it and exits 1; a traceback would be a bug.
    """
