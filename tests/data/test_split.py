import pytest

from src.data.split import (
    PROMISE12_VALIDATION,
    fold_split,
    holdout_split,
    random_split,
    read_split,
    split_hash,
    split_problems,
    write_split,
)
from src.errors import DataError, UserError

NAMES = [f"Case{number:02d}.mhd" for number in range(50)]


def test_written_split_reads_back(tmp_path):
    write_split(tmp_path / "new" / "train.csv", NAMES)
    assert (tmp_path / "new" / "train.csv").read_text().startswith("Case00.mhd\nCase01.mhd\n")
    assert read_split(tmp_path / "new" / "train.csv") == NAMES


def test_windows_text_is_read(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes("\ufeffCase01.mhd\r\n  Case00.mhd \r\n\r\n".encode())
    assert read_split(path) == ["Case01.mhd", "Case00.mhd"]


def test_all_problems_of_a_split_at_once(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("Case00.mhd\n/data/Case01.mhd\n../Case02.mhd\nCase00.mhd\nC:\\Case03.mhd\n..\n")
    with pytest.raises(DataError) as caught:
        read_split(path)
    assert len(caught.value.problems) == 5
    text = str(caught.value)
    for part in ("Case00.mhd is listed 2 times", "'/data/Case01.mhd' is a path", "'../Case02.mhd'", "'..'"):
        assert part in text


def test_problems_of_two_splits_can_be_collected(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("Case01.mhd\n../Case02.mhd\nCase00.mhd\nCase01.mhd\n")
    names, problems = split_problems(path)
    assert names == ["Case01.mhd", "Case00.mhd"]
    assert len(problems) == 2 and all(problem.startswith(f"{path}: ") for problem in problems)
    names, problems = split_problems(tmp_path / "val.csv")
    assert names == [] and len(problems) == 1
    assert f"{tmp_path / 'val.csv'} cannot be read (No such file" in problems[0]
    write_split(path, NAMES)
    assert split_problems(path) == (NAMES, [])


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_split(tmp_path, content):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(DataError, match="split is empty"):
        read_split(tmp_path / "train.csv")


def test_unreadable_split(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_split(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_split(tmp_path / "train.csv")


def test_holdout_split_of_promise12():
    train, validation = holdout_split(NAMES)
    assert validation == [f"Case{number}.mhd" for number in PROMISE12_VALIDATION]
    assert len(train) == 40 and not set(train) & set(validation)
    with pytest.raises(UserError, match="leaves 10 training and 0 validation"):
        holdout_split(NAMES[:10])


def test_random_split_depends_on_the_seed_only():
    train, validation = random_split(NAMES, 10, seed=3)
    assert (len(train), len(validation)) == (40, 10)
    assert sorted(train + validation) == NAMES
    assert random_split(NAMES[::-1], 10, seed=3) == (train, validation)
    assert random_split(NAMES, 10, seed=4) != (train, validation)
    with pytest.raises(UserError):
        random_split(NAMES, 50, seed=3)


@pytest.mark.parametrize("folds", [2, 5, 7, 50])
def test_every_case_validates_in_one_fold(folds):
    parts = [fold_split(NAMES, fold, folds, seed=1) for fold in range(folds)]
    assert sorted(name for _, validation in parts for name in validation) == NAMES
    sizes = {len(validation) for _, validation in parts}
    assert max(sizes) - min(sizes) <= 1
    assert all(sorted(train + validation) == NAMES for train, validation in parts)


@pytest.mark.parametrize(("fold", "folds"), [(-1, 5), (5, 5), (0, 1), (0, 51)])
def test_fold_that_is_not_there(fold, folds):
    with pytest.raises(UserError):
        fold_split(NAMES, fold, folds, seed=1)


def test_hash_is_of_the_set():
    # printf 'a\nb' | sha256sum
    assert split_hash(["b", "a"]) == "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"
    assert split_hash(["a"]) != split_hash(["a", "b"])
