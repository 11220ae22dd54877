"""The one error that a user is meant to read."""


class GenrecError(ValueError):
    """Bad input or a bad state; the message names the file, line or value at fault and the remedy."""
