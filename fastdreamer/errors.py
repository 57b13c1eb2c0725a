"""The exceptions that the command line prints as one line, with exit code 2."""


class UserError(ValueError):
    """Bad input: the message is one line that names what is wrong, where, and the way out."""


class Stopped(UserError):
    """Work that began and cannot go on; what it has done and written stays."""


class RanksDiffer(Stopped):
    """Processes that train together do not hold the same; every one of them says so, with the rank's number."""


class Ended(Exception):
    """Another process that trains with this one ended the work, and the line about it is printed already."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
