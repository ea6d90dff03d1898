"""What the service takes, and how it says no."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one request from taking the machine from the others.

    Attributes:
        upload_bytes: of a request's body.
        voxels: of a volume as it is stored, and as the network sees it.
        seconds: from a request's first byte to its answer.
        stall_seconds: without a byte of an upload.
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
        reason: what was found, what was expected, what to do.
        retry_after: seconds after which another try may succeed, or None.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
