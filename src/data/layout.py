"""How a data set lies on disk: a folder of images, a folder of labels, and which label belongs to which image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.case import VOLUME_SUFFIXES, Case, split_volume_name
from src.data.case_files import find_label_problems
from src.errors import DataError, UserError


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie below its folder.

    Attributes:
        image_folder, label_folder: names of the two folders.
        label_names: gives the file names that the label of an image file may have; the first is the usual one.
        suffixes: of files that are volumes.
        label_problems: says what is wrong with a label of C classes (None: of any), for a case without image.
        kind: what an image file is called in messages.
    """

    image_folder: str
    label_folder: str
    label_names: Callable[[str], Sequence[str]]
    suffixes: tuple[str, ...] = VOLUME_SUFFIXES
    label_problems: Callable[[Path, int | None], list[str]] = find_label_problems
    kind: str = "volume"

    def all_names(self, data_path: Path) -> list[str]:
        """List the image file names of a data folder, sorted; hidden files, macOS's `._` files among them, are none.

        Raises:
            UserError: the folder has no images.
        """
        folder = self._image_folder(Path(data_path))
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and self.case_id(path.name))
        if not names:
            raise UserError(f"no {self.kind} ({', '.join(self.suffixes)}) in {folder}; put the case images there")
        return names

    def find_cases(self, data_path: Path, names: Sequence[str], need_labels: bool = True) -> list[Case]:
        """Look up the files of the named cases, all of which have to be there.

        Args:
            data_path, names, need_labels: as `scan_cases`.

        Returns:
            One case per name, in the order of `names`.

        Raises:
            UserError: the data folder itself is wrong.
            DataError: with the problems that `scan_cases` finds.
        """
        return all_found(self.scan_cases(data_path, names, need_labels))

    def scan_cases(self, data_path: Path, names: Sequence[str], need_labels: bool = True,
                   classes: int | None = None) -> tuple[list[Case], list[str]]:
        """Look up the files of the named cases, and say which are not as they should be.

        Args:
            data_path: folder that holds the folders of images and labels.
            names: image file names, as in a split file.
            need_labels: whether a case without ground truth is a problem; where it is not, its `label_path` is None.
            classes: C of the labels that are checked here, background included; None leaves their values unchecked.

        Returns:
            The cases whose image is there, in the order of `names`, and one sentence for every name that is no
            volume's, occurs twice, or lacks a file. So that nothing stays hidden behind a missing half, a case that
            lacks its ground truth is returned without, for its image to be checked; and a ground truth that lacks its
            image is checked here.

        Raises:
            UserError: the data folder itself is wrong.
        """
        folder = self._image_folder(Path(data_path))
        labels = Path(data_path) / self.label_folder
        problems: list[str] = []
        cases: dict[str, Case] = {}
        for name in names:
            case_id = self.case_id(name)
            if not case_id:
                problems.append(f"{name}: not a {self.kind}'s file name, expected a suffix of "
                                f"{', '.join(self.suffixes)} "
                                "and no dot in front; correct the split file")
                continue
            if case_id in cases:
                problems.append(f"{case_id}: named twice, as {cases[case_id].image_path.name} and {name}; "
                                "name each case once")
                continue
            candidates = [labels / other for other in self.label_names(name)]
            found = next((path for path in candidates if path.is_file()), None)
            image = folder / name
            if not image.is_file():
                problems.append(f"{case_id}: image {image} is missing; correct the split file or add the case")
            if need_labels and found is None:
                problems.append(f"{case_id}: ground truth {candidates[0]} is missing; add it, "
                                "or take the case out of the split file")
            if image.is_file():
                cases[case_id] = Case(case_id, image, found)
            elif found is not None:
                problems += [f"{case_id}: {problem}" for problem in self.label_problems(found, classes)]
        return list(cases.values()), problems

    def case_id(self, name: str) -> str:
        """Return a volume's file name without its suffix; "" when it is not a volume's, or hidden."""
        case_id, suffix = split_volume_name(name, self.suffixes)
        return case_id if suffix and not name.startswith(".") else ""

    def _image_folder(self, data_path: Path) -> Path:
        folder = data_path / self.image_folder
        if folder.is_dir():
            return folder
        remedy = f"give the folder that holds {self.image_folder}/ and {self.label_folder}/"
        if not data_path.is_dir():
            raise UserError(f"data folder {data_path} is not there; {remedy}")
        inner = sorted(path.parent for path in data_path.glob(f"*/{self.image_folder}") if path.is_dir())
        if inner:
            remedy = f"give {' or '.join(map(str, inner))}"
        raise UserError(f"data folder {data_path} has no {self.image_folder}/ in it; {remedy}")


def all_found(scanned: tuple[list[Case], list[str]]) -> list[Case]:
    """Return the cases of what a `scan_cases` gave.

    Raises:
        DataError: with its problems, if there are any.
    """
    cases, problems = scanned
    if problems:
        raise DataError(problems)
    return cases
