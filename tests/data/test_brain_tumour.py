"""MSD's brain tumour layout: what is read, how it is scaled, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from src.data import brain_tumour, build_manager, get_task
from src.data.brain_tumour import BrainTumourManager, read_label, resize_nearest
from src.data.case import Case
from src.data.dataset import BatchLoader, StreamedSamples
from src.errors import DataError, UserError
from src.overrides import load_recipe

SIZE = (16, 24, 7)
SPACING = (1.0, 0.5, 2.0)


def write_nifti(path: Path, array: np.ndarray) -> None:
    """Write (x, y, z) or (c, x, y, z) voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volumes = []
    for volume in array if array.ndim == 4 else [array]:
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume.transpose(2, 1, 0)))
        image.SetSpacing(SPACING)
        image.SetOrigin((3.0, -4.0, 5.0))
        volumes.append(image)
    sitk.WriteImage(sitk.JoinSeries(volumes) if array.ndim == 4 else volumes[0], str(path))


def make_image(seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 900, (4, *SIZE)).astype(np.int16)
    image[:, 0, 0, 0] = [100, 200, 400, 1000]  # known maxima of the modalities, once the rest is cut below
    return np.minimum(image, np.array([100, 200, 400, 1000], np.int16).reshape(4, 1, 1, 1))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two cases as NIfTI and one as arrays."""
    label = np.zeros(SIZE, np.uint8)
    label[4, 5, 2:5] = [1, 2, 3]
    for number in (1, 2):
        write_nifti(tmp_path / f"imagesTr/BRATS_00{number}.nii.gz", make_image(number))
        write_nifti(tmp_path / f"labelsTr/BRATS_00{number}.nii.gz", label)
    np.save(tmp_path / "imagesTr/BRATS_003.npy", make_image(3).transpose(1, 2, 3, 0))
    np.save(tmp_path / "labelsTr/BRATS_003.npy", label)
    return tmp_path


def case_of(folder: Path, name: str) -> Case:
    return brain_tumour.find_cases(folder, [name])[0]


def test_names_and_cases(folder):
    names = ["BRATS_001.nii.gz", "BRATS_002.nii.gz", "BRATS_003.npy"]
    assert get_task("brain_tumour").all_names(folder) == names
    cases = brain_tumour.find_cases(folder, names)
    assert [case.case_id for case in cases] == ["BRATS_001", "BRATS_002", "BRATS_003"]
    assert cases[0].label_path == folder / "labelsTr/BRATS_001.nii.gz"


def test_a_label_may_have_another_suffix_than_its_image(folder):
    label = folder / "labelsTr/BRATS_001.nii.gz"
    np.save(folder / "labelsTr/BRATS_001.npy", read_label(label))
    label.unlink()
    assert case_of(folder, "BRATS_001.nii.gz").label_path == folder / "labelsTr/BRATS_001.npy"


@pytest.mark.parametrize("name", ["BRATS_001.nii.gz", "BRATS_003.npy"])
def test_intensities_over_the_maximum_and_binary_labels(folder, name):
    """The first version divided labels by their maximum as well, which left 1/3 and 2/3."""
    stored = make_image(int(name[8]))
    sample = BrainTumourManager().load(case_of(folder, name))
    assert sample.image.dtype == np.float32
    np.testing.assert_allclose(sample.image, stored / 1000, rtol=1e-6)
    assert sample.label is not None
    assert sorted(map(tuple, np.argwhere(sample.label).tolist())) == [(4, 5, 2), (4, 5, 3), (4, 5, 4)]
    assert set(np.unique(sample.label)) == {0, 1}
    assert sample.native.spacing == (SPACING if name.endswith("gz") else (1, 1, 1))
    assert sample.foreground_ml == pytest.approx(3 * np.prod(sample.native.spacing) / 1000)


def test_each_modality_over_its_own_maximum(folder):
    recipe = load_recipe("unet3d_brain", overrides=["normalise_by=modality"])
    sample = build_manager(recipe).load(case_of(folder, "BRATS_001.nii.gz"))
    assert sample.image.max(axis=(1, 2, 3)).tolist() == [1, 1, 1, 1]


def test_resizing_takes_the_nearest_voxel_and_keeps_the_extent(folder):
    recipe = load_recipe("unet3d_brain", overrides=["target_size=[32,16,11]"])
    manager = build_manager(recipe)
    case = case_of(folder, "BRATS_001.nii.gz")
    sample = manager.load(case)
    full = BrainTumourManager().load(case)
    # Centres: x 32 of 16, two new voxels in each; y 16 of 24, centres 0.75 and 2.25 of every three; z 11 of 7.
    x, y = np.arange(32) // 2, [(3 * i + 1) // 2 for i in range(16)]
    z = [int((k + 0.5) * 7 / 11) for k in range(11)]
    np.testing.assert_array_equal(sample.image, full.image[:, x][:, :, y][:, :, :, z])
    np.testing.assert_array_equal(sample.label, full.label[x][:, y][:, :, z])
    np.testing.assert_allclose(sample.block.extent, full.native.extent)
    np.testing.assert_allclose(sample.block.centre, full.native.centre)
    probability = np.random.default_rng(0).random((32, 16, 11), dtype=np.float32)
    back = manager.paste_back(probability, sample.block, sample.native)
    assert back.shape == SIZE
    np.testing.assert_array_equal(resize_nearest(probability, SIZE), back)


def test_the_same_size_is_left_alone():
    array = np.arange(24).reshape(2, 3, 4)
    assert resize_nearest(array, (2, 3, 4)) is array


def problems_of(folder: Path, name: str = "BRATS_001.nii.gz") -> str:
    with pytest.raises(DataError) as caught:
        BrainTumourManager().load(case_of(folder, name))
    return "\n".join(caught.value.problems)


def test_a_wrong_number_of_channels(folder):
    write_nifti(folder / "imagesTr/BRATS_001.nii.gz", make_image()[:3])
    assert "BRATS_001.nii.gz: the volume's shape is (16, 24, 7, 3), expected x, y, z and 4 channels" in problems_of(
        folder)
    write_nifti(folder / "imagesTr/BRATS_001.nii.gz", make_image()[0])
    assert "shape is (16, 24, 7), expected x, y, z and 4 channels" in problems_of(folder)
    np.save(folder / "imagesTr/BRATS_003.npy", np.ones((*SIZE, 3)))
    assert "an array of shape (16, 24, 7, 3), expected (x, y, z, 4)" in problems_of(folder, "BRATS_003.npy")
    np.save(folder / "labelsTr/BRATS_003.npy", np.ones((*SIZE, 4)))
    assert "an array of shape (16, 24, 7, 4), expected (x, y, z)" in problems_of(folder, "BRATS_003.npy")


def test_a_label_of_another_size(folder):
    write_nifti(folder / "labelsTr/BRATS_001.nii.gz", np.zeros((16, 24, 11), np.uint8))
    assert "the label has 16 x 24 x 11 voxels, the image" in problems_of(folder)


def test_a_size_that_the_network_cannot_take(folder):
    write_nifti(folder / "imagesTr/BRATS_001.nii.gz", np.ones((4, 16, 24, 8), np.int16))
    (folder / "labelsTr/BRATS_001.nii.gz").unlink()
    np.save(folder / "labelsTr/BRATS_001.npy", np.zeros((16, 24, 8), np.uint8))
    assert "found 16 x 24 x 8, expected X and Y in multiples of 8" in problems_of(folder)
    assert "resize with target_size" in problems_of(folder)


def test_damaged_and_empty_files(folder):
    image = folder / "imagesTr/BRATS_001.nii.gz"
    image.write_bytes(image.read_bytes()[:200])
    assert f"{image}: " in problems_of(folder)
    (folder / "imagesTr/BRATS_003.npy").write_bytes(b"\x93NUMPY")
    assert "BRATS_003.npy: cannot be read as an array" in problems_of(folder, "BRATS_003.npy")
    np.save(folder / "imagesTr/BRATS_003.npy", np.full((*SIZE, 4), np.nan))
    assert "voxels are not finite" in problems_of(folder, "BRATS_003.npy")
    dark = make_image()
    dark[2] = 0
    write_nifti(folder / "imagesTr/BRATS_002.nii.gz", dark)
    assert "modality 3 of 4 has no voxel above 0" in problems_of(folder, "BRATS_002.nii.gz")


def test_missing_files_and_wrong_names(folder):
    (folder / "labelsTr/BRATS_002.nii.gz").unlink()
    _, problems = brain_tumour.scan_cases(
        folder, ["BRATS_002.nii.gz", "BRATS_009.nii.gz", "notes.txt", "BRATS_003.npy", "BRATS_003.nii.gz"])
    text = "\n".join(problems)
    assert "BRATS_002: ground truth" in text
    assert "BRATS_009: image" in text
    assert "notes.txt: not a volume's file name" in text
    assert "BRATS_003: named twice" in text
    with pytest.raises(UserError, match="has no imagesTr/"):
        brain_tumour.all_names(folder / "imagesTr")
    with pytest.raises(UserError, match="is not there"):
        brain_tumour.all_names(folder / "nowhere")


def test_samples_are_streamed(folder):
    """Nothing is read before it is its turn, and a rank that needs labels alone reads no image."""
    cases = brain_tumour.find_cases(folder, ["BRATS_001.nii.gz", "BRATS_002.nii.gz"])
    read: list[str] = []
    manager = BrainTumourManager()

    def load(case):
        read.append(case.case_id)
        return manager.load(case)

    loader = BatchLoader(StreamedSamples(cases, load), 1, seed=3)
    assert (loader.steps_per_epoch, read) == (2, [])
    batches = list(loader.epoch(1))
    assert sorted(read) == ["BRATS_001", "BRATS_002"]
    assert [batch.image.shape for batch in batches] == [(1, 4, *SIZE)] * 2
    assert [batch.case_ids[0] for batch in batches] == read
    cases[0].image_path.unlink()
    label = manager.load_label(cases[0])
    assert label.image.size == 0
    np.testing.assert_array_equal(label.label, read_label(cases[0].label_path))
