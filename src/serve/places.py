"""The bounded queue: how many requests are in the house, and when the next one may try again."""

import math
import threading
from collections.abc import Callable

from src.serve.limits import Limits, Refusal

_WEIGHT = 0.3  # of the newest request in the mean of their times


class Places:
    """A fixed number of places, each taken by a request from its upload to its answer.

    Args:
        limits: `places` and `seconds` count.
        on_change: is told how many are taken.
    """

    def __init__(self, limits: Limits, on_change: Callable[[int], object] = lambda taken: None):
        self.limits = limits
        self.taken = 0
        self.typical = 1.0  # seconds that a volume takes, its waiting left out
        self._on_change = on_change
        self._lock = threading.Lock()

    def take(self) -> Callable[[], None]:
        """Take a place; the function returned gives it back, from any thread, and does nothing when called again.

        Raises:
            Refusal: 503, all are taken.
        """
        with self._lock:
            if self.taken >= self.limits.places:
                raise Refusal(503, f"all {self.limits.places} places are taken; try again in a while",
                              self.wait_seconds())
            self._change(1)
        given_back = threading.Event()

        def give_back() -> None:
            with self._lock:
                if not given_back.is_set():
                    given_back.set()
                    self._change(-1)

        return give_back

    def wait_seconds(self) -> int:
        """Return about how long it takes until all who have a place are done, 1 second at least."""
        return min(max(math.ceil(self.typical * self.taken), 1), math.ceil(self.limits.seconds))

    def learn(self, seconds: float) -> None:
        """Take in how long a volume took, its waiting left out."""
        with self._lock:
            self.typical += _WEIGHT * (seconds - self.typical)

    def _change(self, by: int) -> None:
        self.taken += by
        self._on_change(self.taken)
