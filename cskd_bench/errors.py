"""The one exception that the command line shows to a person without a traceback."""


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do."""
