"""The errors of the package, each one line: what was got, what is allowed, what to do. It imports
nothing.

RNXError                     anything that a caller can mend
├── SettingsError            an argument, an option or an input file that does not fit
├── StorageError             an index or a memory store: missing, in use, full, damaged, made
│                            with other settings
├── ConnectionFailedError    a server or a service that does not answer, or refuses
└── ImageError               an image that cannot be read
"""

# The longest message, value in a message, and label in a message, in letters.
MAX_LINE = 2_000
MAX_VALUE = 100
MAX_LABEL = 300


class RNXError(ValueError):
    """A mistake that its user can mend. The command line prints it as one line and exits with 2.

    The message is one line of at most 2,000 letters, whatever foreign text stands in it.

    Example:
        >>> str(RNXError("array([[1],\\n       [2]]) was given."))
        'array([[1], [2]]) was given.'
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(str(message)))


class SettingsError(RNXError):
    """An argument, an option or an input file that does not fit. Nothing was tried yet, and nothing
    has changed.
    """


class StorageError(RNXError):
    """An index or a memory store that cannot be used: missing, in use, full, damaged, or made with
    other settings.
    """


class ConnectionFailedError(RNXError):
    """A server or a service that does not answer, answers nonsense, or refuses. Another try may
    succeed.
    """


class ImageError(RNXError):
    """An image that cannot be read: missing, empty, truncated, too large, or no image at all."""


def shown(value: object) -> str:
    """Return a value as a message names it: its `repr`, cut to 100 letters; its type if that fails.

    Example:
        >>> shown("text"), len(shown("x" * 1_000))
        ("'text'", 100)
    """
    try:
        text = repr(value)
    # The class may be anybody's, and raise anything; Python itself refuses huge numbers.
    except Exception:
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
    """Replace each line end, and the indentation after it, by one blank; other blanks may belong
    to names. Cut a long line in its middle.
    """
    first, *rest = message.splitlines() or [""]
    line = " ".join([first, *map(str.strip, rest)])
    half = MAX_LINE // 2 - 3
    return line if len(line) <= MAX_LINE else f"{line[:half]} ... {line[-half:]}"


def short(label: str) -> str:
    """Return a label as one line of at most 300 letters, whatever a document says its image is
    called. A long one is cut in its middle.
    """
    label = " ".join(label.split())
    return label if len(label) <= MAX_LABEL else f"{label[:140]} ... {label[-140:]}"
