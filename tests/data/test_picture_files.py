"""Pictures are read as stored, transposed; whatever is wrong with a file is a DataError that names it."""

import warnings

import numpy as np
import pytest
from PIL import Image

from src.data import picture_files
from src.data.picture_files import (
    PictureReader,
    luma,
    mask_problems,
    page_count,
    read_mask,
    read_picture,
    write_picture,
)
from src.errors import DataError, UserError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns
COLOUR = np.stack([GREY, GREY + 100, 255 - GREY], axis=-1)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".png", ".gif"])
def test_grey_pictures_are_x_y(tmp_path, suffix):
    picture = read_picture(save(tmp_path / f"a{suffix}", GREY))
    assert picture.shape[1:] == (4, 3)
    for channel in picture:
        np.testing.assert_array_equal(channel, GREY.T)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_bits_of_a_grey_are_kept(tmp_path, suffix, dtype):
    array = (np.arange(12).reshape(3, 4) * (np.iinfo(dtype).max // 12)).astype(dtype)
    picture = read_picture(save(tmp_path / f"a{suffix}", array))
    assert picture.dtype == dtype
    np.testing.assert_array_equal(picture[0], array.T)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_colours_and_opaque_alpha(tmp_path, suffix):
    np.testing.assert_array_equal(read_picture(save(tmp_path / f"a{suffix}", COLOUR)), COLOUR.transpose(2, 1, 0))
    opaque = np.concatenate([COLOUR, np.full((3, 4, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_picture(save(tmp_path / f"b{suffix}", opaque)), COLOUR.transpose(2, 1, 0))
    opaque[0, 0, 3] = 254
    with pytest.raises(DataError, match="b.*: partly transparent, .* remove the alpha"):
        read_picture(save(tmp_path / f"b{suffix}", opaque))


def test_luma_by_hand():
    picture = np.array([200, 100, 50], np.uint8).reshape(3, 1, 1)
    assert luma(picture)[0, 0] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    np.testing.assert_array_equal(luma(GREY.T[np.newaxis]), GREY.T)


def test_pages_of_a_stack(tmp_path):
    pages = [Image.fromarray(GREY + number) for number in range(3)]
    pages[0].save(tmp_path / "s.tif", save_all=True, append_images=pages[1:])
    assert page_count(tmp_path / "s.tif") == 3
    for number in (2, 0, 1):
        np.testing.assert_array_equal(read_picture(tmp_path / "s.tif", number)[0], GREY.T + number)
    with pytest.raises(DataError, match=r"s.tif: 3 pages, expected one picture"):
        read_picture(tmp_path / "s.tif")
    with pytest.raises(DataError, match=r"s.tif: no page 3, the last of 3 pages is 2"):
        read_picture(tmp_path / "s.tif", 3)


def test_masks_of_every_kind(tmp_path):
    mask = (GREY % 3 == 0).astype(np.uint8)
    files = [save(tmp_path / "a.png", mask * 255), save(tmp_path / "b.tif", mask), save(tmp_path / "c.gif", mask * 255),
             save(tmp_path / "d.png", mask > 0), save(tmp_path / "e.png", np.stack([mask * 255] * 3, axis=-1))]
    palette = Image.fromarray(mask)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "f.gif")
    inverse = Image.fromarray(1 - mask)  # index 0 is white here: the colour counts
    inverse.putpalette([255, 255, 255, 0, 0, 0])
    inverse.save(tmp_path / "g.gif")
    for path in [*files, tmp_path / "f.gif", tmp_path / "g.gif"]:
        read = read_mask(path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, mask.T, err_msg=path.name)
    assert not read_mask(save(tmp_path / "h.png", np.zeros((3, 4), np.uint8))).any()


def test_what_is_no_mask(tmp_path):
    assert mask_problems(save(tmp_path / "a.png", GREY)) == [
        f"{tmp_path / 'a.png'}: mask values are {{0, 1, 2, 3, 4, 5, …}}, expected 0 and one value above; make the mask "
        "two-valued, without smoothing or lossy compression"]
    assert "a mask in colours" in mask_problems(save(tmp_path / "b.png", COLOUR))[0]
    assert mask_problems(save(tmp_path / "c.png", np.full((2, 2), 7, np.uint8))) == []


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(DataError, match="a.png: no such file"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "b.tif").write_text("no picture")
    with pytest.raises(DataError, match=r"b.tif: cannot be read as a picture \(cannot identify image file\)"):
        read_picture(tmp_path / "b.tif")
    Image.new("CMYK", (2, 2)).save(tmp_path / "c.tif")
    with pytest.raises(DataError, match="c.tif: colour mode CMYK, expected grey or RGB"):
        read_picture(tmp_path / "c.tif")
    with pytest.raises(DataError, match="d.tif: 1 of 4 pixels are not finite"):
        read_picture(save(tmp_path / "d.tif", np.array([[0, 1], [np.nan, 2]], np.float32)))
    (tmp_path / "e.png").mkdir()
    with pytest.raises(DataError, match="e.png: cannot be read as a picture"):
        read_picture(tmp_path / "e.png")


@pytest.mark.parametrize(("suffix", "options"), [(".tif", {}), (".tif", {"compression": "tiff_lzw"}), (".png", {}),
                                                 (".gif", {})])
def test_a_cut_off_file_is_damaged(tmp_path, suffix, options):
    array = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", array, **options)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.9):
        path.write_bytes(whole[:int(share * len(whole))])
        with pytest.raises(DataError, match=f"a{suffix}"):
            read_picture(path)


def test_what_pillow_warns_of_is_told_of_pictures_that_are_read(tmp_path, caplog, recwarn):
    path = save(tmp_path / "a.tif", GREY)

    def warned(image):
        warnings.warn("odd\n  tag", UserWarning, stacklevel=1)
        return "read" if image.size == (4, 3) else ""

    assert picture_files._read(path, warned) == "read"
    assert [record.getMessage() for record in caplog.records] == [f"{path}: odd tag"]
    path.write_bytes(path.read_bytes()[:20])  # Pillow warns of this, and then fails
    with pytest.raises(DataError):
        read_picture(path)
    assert len(caplog.records) == 1 and not recwarn.list


def test_random_damage_never_ends_in_another_error(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    for suffix in (".tif", ".png", ".gif"):
        whole = np.frombuffer(save(tmp_path / f"a{suffix}", array).read_bytes(), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            (tmp_path / f"a{suffix}").write_bytes(damaged.tobytes())
            try:
                picture = read_picture(tmp_path / f"a{suffix}")
            except DataError as error:
                assert f"a{suffix}" in error.problems[0]
            else:
                assert picture.ndim == 3


def test_writing(tmp_path):
    write_picture(tmp_path / "new" / "a.png", GREY.T)
    np.testing.assert_array_equal(read_picture(tmp_path / "new" / "a.png")[0], GREY.T)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with pytest.raises(UserError, match="b.png: the picture cannot be written"):
        write_picture(tmp_path / "new" / "a.png" / "b.png", GREY.T)


def test_a_reader_collects_all_problems(tmp_path):
    reader = PictureReader()
    picture = reader.picture(save(tmp_path / "a.png", GREY))
    assert reader.mask(save(tmp_path / "m.png", GREY[:2] * 0), picture) is None
    assert reader.picture(tmp_path / "b.png") is None
    assert reader.mask(save(tmp_path / "c.png", GREY[:, :2] * 0), None).shape == (2, 3)
    assert [problem.split(":")[0] for problem in reader.problems] == [str(tmp_path / "m.png"), str(tmp_path / "b.png")]
    assert "the mask has 4 x 2 pixels, its picture 4 x 3" in reader.problems[0]
