"""The one exception for a user's mistake: the command line prints it as one line and exits 2."""


class UserError(ValueError):
    """Bad input: the message is one line that names what is wrong, where, and the way out."""
