"""Builds the CPU kernels ahead of the first run: python -m src.ops.build."""

import logging
import sys

from src.errors import entry_point
from src.log import setup_logging
from src.ops.cpu.build import build, read_metadata

logger = logging.getLogger(__name__)


@entry_point
def main() -> None:
    """Build the library unless it is in the cache, and say where it is and what it was built for."""
    setup_logging()
    library = build()
    metadata = read_metadata(library)
    logger.info("CPU kernels for %s with oneDNN %s: %s", metadata["isa"], metadata["onednn"], library)


if __name__ == "__main__":
    sys.exit(main())
