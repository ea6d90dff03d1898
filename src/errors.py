"""Errors meant for the person at the keyboard, and how entry scripts end on them."""

import functools
import sys
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend: names the case and file, what was found, what was expected, what to do."""


class DataError(UserError):
    """Every problem found in a data set, collected so that one run shows them all.

    Attributes:
        problems: one complete sentence per problem, in the order found.
    """

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in the data:"
        super().__init__("\n  - ".join([head, *self.problems]))


def entry_point(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap an entry script's `main`: a `UserError` becomes one message on stderr and exit code 2.

    Anything else is a defect of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: object) -> int:
        try:
            return main(*args) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR

    return wrapped
