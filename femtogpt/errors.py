"""The one exception that is meant for people."""


class FemtoError(ValueError):
    """Something the user gave cannot be used.

    The message is one line, names the file or option, and says the way out.
    The command line prints it and exits 1; a traceback would be a bug.
    """


def short(value: object) -> str:
    """repr(value) for a message: a file may hold names and numbers of any length."""
    # Cut before repr too, which writes a control character as four.
    text = repr(value[:80] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 80 else text[:77] + "..."
