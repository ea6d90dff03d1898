"""train.py with a V-Net of one stage in place of the whole one, for tests that are not about the network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from src.training import build
from tests.training.helpers import small_network

build.build_network = small_network

if __name__ == "__main__":
    sys.exit(train.main())
