"""What the service takes, and how it says no."""

import re
from dataclasses import dataclass

MIB = 2**20

# Control characters, which no reason has otherwise, around what an upload says of itself
_OPEN, _CLOSE = "\2", "\3"


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one request from taking the machine from the others.

    Attributes:
        upload_bytes: of a request's body.
        voxels: of a volume as it is stored, and as the network sees it.
        seconds: from a request's first byte to its answer.
        stall_seconds: without a byte of an upload, and for a connection to send a request's header.
        places: requests at a time, from their upload to their answer; the next one is told to come again.
        readers: threads that read, prepare and write volumes beside the network.
    """

    upload_bytes: int = 256 * MIB
    voxels: int = 2**26
    seconds: float = 120.0
    stall_seconds: float = 15.0
    places: int = 8
    readers: int = 2

    @property
    def unpacked_bytes(self) -> int:
        """Most bytes that a compressed volume may unpack to: voxels of the widest type, and a long header."""
        return 8 * self.voxels + MIB


class Refusal(Exception):
    """A request that is not answered with a mask.

    Attributes:
        status: of HTTP; 4xx where the client can mend it.
        reason: what was found, what was expected, what to do; printable.
        logged: the reason in one line, without what was `from_upload`, which may be a patient's name.
        retry_after: seconds after which another try may succeed, or None.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        hidden = re.sub(f"{_OPEN}.*?{_CLOSE}", "...", reason, flags=re.DOTALL)
        self.logged = _printable(hidden.replace("\n", "; "))
        super().__init__(self.logged)  # which a traceback shows
        self.status = status
        self.reason = re.sub(f"[{_OPEN}{_CLOSE}]", "", _printable(reason, f"\n{_OPEN}{_CLOSE}"))
        self.retry_after = retry_after


def from_upload(text: str) -> str:
    """Mark what came with the upload, as names do, in a `Refusal`'s reason: the client reads it, the log does not."""
    return f"{_OPEN}{_printable(text)}{_CLOSE}"


def _printable(text: str, kept: str = "") -> str:
    """Replace what would steer a terminal, or cannot be encoded, such as half of a surrogate pair."""
    return "".join(letter if letter.isprintable() or letter in kept else "\ufffd" for letter in text)
