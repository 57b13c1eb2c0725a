"""The exceptions that the command line prints as one line, with exit code 2."""


class UserError(ValueError):
    """Bad input: the message is one line that names what is wrong, where, and the way out."""


class Stopped(UserError):
    """Work that began and cannot go on; what it has done and written stays."""
