"""The one error of the package: a line that says what was got, what is allowed and what to do."""

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
    except Exception:  # Whoever wrote the class chose what it raises; Python itself refuses huge numbers.
        return f"<{type(value).__name__}>"
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def _one_line(message: str) -> str:
    """Line ends, and the indentation after them, as one blank: other blanks are part of names."""
    lines = message.splitlines()
    line = " ".join([*lines[:1], *(part.strip() for part in lines[1:])])
    half = MAX_LINE // 2 - 3
    return line if len(line) <= MAX_LINE else f"{line[:half]} ... {line[-half:]}"


def short(label: str) -> str:
    """For messages: in one line, whatever a document says its picture is called, and no longer than 300 letters."""
    label = " ".join(label.split())
    return label if len(label) <= 300 else f"{label[:140]} ... {label[-140:]}"
