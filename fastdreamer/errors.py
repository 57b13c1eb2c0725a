"""The exceptions that the command line prints as one line, with exit code 2."""


class UserError(ValueError):
    """Bad input: the message is one line that names what is wrong, where, and the way out."""


class Stopped(UserError):
    """Work that began and cannot go on; what it has done and written stays."""


class OfAllRanks:
    """Marks errors that processes which train together raise alike, so that the line is about no one of them."""


class Lost(OfAllRanks, Stopped):
    """Step after step had to be left out."""


class RanksDiffer(OfAllRanks, Stopped):
    """Processes that train together do not hold the same."""


class TooLarge(OfAllRanks, UserError):
    """Memory ran out, and smaller pieces did not help."""


class Ended(Exception):
    """Another process that trains with this one ended the work, and the line about it is printed already."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
