"""Errors meant for the person at the keyboard, and how entry scripts end on them."""

import functools
import re
import sys
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_failed = False

# As src/ops/cpu/entry.h words it; MindSpore puts lines of its own around it.
_NO_MEMORY = re.compile(r"CPU kernel \w+: not enough memory[^\n]*")


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


def has_failed() -> bool:
    """Return whether this process ends in an error, as far as can be told: for what runs at its end."""
    return _failed or hasattr(sys, "last_value")


def entry_point(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap an entry script's `main`: what the user can mend becomes one message on stderr and exit code 2.

    That is a `UserError`, an error of the file system (no permission, no space, a file where a folder should be), or a
    CPU kernel for which there is not enough memory.
    An interrupt from the keyboard ends with 130, as shells expect. Anything else is a defect of ours and keeps its
    traceback.
    """

    def run(*args: object) -> int:
        try:
            return main(*args) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        except OSError as error:
            if error.filename is None:
                raise
            print(f"error: {error.filename}: {error.strerror}; check the path, its permissions and the free space",
                  file=sys.stderr)
            return EXIT_USER_ERROR
        except RuntimeError as error:
            if (found := _NO_MEMORY.search(str(error))) is None:
                raise
            print(f"error: {found[0]}", file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print("interrupted; files written so far are whole, and a training run continues with --resume RUN_DIR",
                  file=sys.stderr)
            return EXIT_INTERRUPTED

    @functools.wraps(main)
    def wrapped(*args: object) -> int:
        global _failed
        code = run(*args)
        _failed = _failed or code != 0
        return code

    return wrapped
