"""The one error that a user can correct."""


class InputError(Exception):
    """Input the program cannot use.

    The message is a single line that says what is wrong, where, and what to do about it; scripts
    print it without a traceback and exit with status 2. Every other exception is a bug of ours.
    """
