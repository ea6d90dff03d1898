import subprocess
import sys
from pathlib import Path

import numpy as np

from src.data import prostate
from src.data.case_files import read_case
from src.data.geometry import Geometry
from src.data.split import read_split
from src.data.volume_files import read_volume, write_volume

REPO = Path(__file__).parents[2]
GRID = Geometry((6, 5, 4), (1, 1, 1), (-1, -1, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1))


def test_sample_from_a_generated_task(tmp_path):
    """30 sound cases among 32: one has fractions and is scaled, one is constant, one lacks its label."""
    rng = np.random.default_rng(0)
    for number in range(1, 33):
        image = rng.integers(0, 256, GRID.size).astype(np.uint8 if number != 3 else np.float32)
        if number == 3:
            image += 0.5
        if number == 5:
            image[:] = 7
        write_volume(tmp_path / "in" / "imagesTr" / f"hippocampus_{number:03d}.nii.gz", image, GRID)
        if number != 7:
            label = rng.integers(0, 3, GRID.size).astype(np.uint8)
            write_volume(tmp_path / "in" / "labelsTr" / f"hippocampus_{number:03d}.nii.gz", label, GRID)
    command = [sys.executable, REPO / "scripts" / "make_sample.py", tmp_path / "in", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "hippocampus_005 left out" in result.stderr and "hippocampus_007 left out" in result.stderr

    names = prostate.all_names(tmp_path / "out")
    cases = prostate.find_cases(tmp_path / "out", names)
    splits = [read_split(tmp_path / "out" / name) for name in ("train.csv", "val.csv", "unseen.csv")]
    assert [len(split) for split in splits] == [24, 5, 1]
    assert [name for split in splits for name in split] == names

    source = read_volume(tmp_path / "in" / "imagesTr" / "hippocampus_003.nii.gz")[0]
    image, label, native = read_case(cases[2])
    assert image.dtype == np.int16 and image.max() == 4095
    np.testing.assert_allclose(image, source * (4095 / source.max()), atol=0.501)
    assert native == GRID
    source_label = read_volume(tmp_path / "in" / "labelsTr" / "hippocampus_003.nii.gz")[0]
    np.testing.assert_array_equal(label, source_label > 0)


def test_the_sample_in_the_repository():
    folder = REPO / "data" / "sample"
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 3_000_000
    cases = prostate.find_cases(folder, prostate.all_names(folder))
    assert len(cases) == 30
    for case in cases:
        assert read_case(case)[1].any()
    assert "CC-BY-SA 4.0" in (folder / "README.md").read_text()
