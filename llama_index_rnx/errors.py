"""The one error of the package: a line that says what was got, what is allowed and what to do."""


class RNXError(ValueError):
    """A mistake that its user can mend. The command line prints it as one line and exits with 2."""


class ImageError(RNXError):
    """An image that cannot be read: missing, empty, truncated, too large, or no image at all."""
