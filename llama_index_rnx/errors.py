"""The errors of the package, each one line: what was got, what is allowed, what to do. It imports
nothing.

RNXError                     anything that a caller can mend
├── SettingsError            an argument, an option or an input file that does not fit
├── StorageError             an index or a store of memories: not there, in use, full, damaged, made otherwise
├── ConnectionFailedError    a server or a service that does not answer, or refuses
└── ImageError               an image that cannot be read
"""

MAX_LINE = 2_000
MAX_VALUE = 100


class RNXError(ValueError):
    """A mistake that its user can mend. The command line prints it as one line and exits with 2.

    Whatever foreign text stands in its message, it is one line, and no longer than 2,000 letters.

    Example:
        >>> str(RNXError("array([[1],\\n       [2]]) was given."))
        'array([[1], [2]]) was given.'
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(str(message)))


class SettingsError(RNXError):
    """An argument, an option or an input file that does not fit: nothing was tried yet, and nothing
    has changed.
    """


class StorageError(RNXError):
    """An index or a store of memories that cannot be used: missing, in use, full, damaged, or made
    with other settings.
    """


class ConnectionFailedError(RNXError):
    """A server or a service that does not answer, answers nonsense, or refuses. Another try may
    succeed.
    """


class ImageError(RNXError):
    """An image that cannot be read: missing, empty, truncated, too large, or no image at all."""


def shown(value: object) -> str:
    """A value as a message names it: its `repr`, cut to 100 letters; its type where it has none.

    Example:
        >>> shown("text"), len(shown("x" * 1_000))
        ("'text'", 100)
    """
    try:
        text = repr(value)
    except (
        Exception
    ):  # Whoever wrote the class chose what it raises; Python itself refuses huge numbers.
        return f"<{type(value).__name__}>"
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def one_line(error: object, limit: int = 300) -> str:
    """Return the message of an error as one line of at most `limit` letters; the name of its class
    where it has none.

    Example:
        >>> one_line(OSError("disk\\n   full")), one_line(KeyError())
        ('disk full', 'KeyError')
    """
    line = " ".join(str(error).split())
    return line[:limit] or type(error).__name__


def _one_line(message: str) -> str:
    """Line ends, and the indentation after them, as one blank: other blanks are part of names."""
    lines = message.splitlines()
    line = " ".join([*lines[:1], *(part.strip() for part in lines[1:])])
    half = MAX_LINE // 2 - 3
    return line if len(line) <= MAX_LINE else f"{line[:half]} ... {line[-half:]}"


def short(label: str) -> str:
    """For messages: in one line, whatever a document says its picture is called, and no longer than
    300 letters.
    """
    label = " ".join(label.split())
    return label if len(label) <= 300 else f"{label[:140]} ... {label[-140:]}"
