import pytest

from src.data.case import split_volume_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Case00.mhd", ("Case00", ".mhd")),
        ("Case00.nii.gz", ("Case00", ".nii.gz")),
        ("a.b.nii", ("a.b", ".nii")),
        ("Case00.MHA", ("Case00", ".MHA")),
        ("Case00.raw", ("Case00.raw", "")),
        ("Case00.gz", ("Case00.gz", "")),
        (".mhd", (".mhd", "")),
        ("Case00", ("Case00", "")),
    ],
)
def test_split_volume_name(name, parts):
    assert split_volume_name(name) == parts


def test_other_suffixes():
    assert split_volume_name("a.NPY", (".nii", ".npy")) == ("a", ".NPY")
    assert split_volume_name("a.mhd", (".nii", ".npy")) == ("a.mhd", "")
