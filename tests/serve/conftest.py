"""A small service, and a volume to send to it."""

import tempfile
from pathlib import Path

import pytest

from tests.inference.helpers import bright
from tests.serve.helpers import bright_file, serving


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("working")


@pytest.fixture(scope="module")
def client(working_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(working_folder))
        with serving(bright(), upload_bytes=1 << 20, voxels=200_000, stall_seconds=2) as client:
            yield client


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> bytes:
    return bright_file(tmp_path_factory.mktemp("volume"), "Case 7.nii.gz")
