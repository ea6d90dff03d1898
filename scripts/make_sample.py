"""Make data/sample/ from MSD Task04_Hippocampus: `python scripts/make_sample.py MSD_TASK04_FOLDER OUT`."""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.data import prostate
from src.data.case import Case
from src.data.case_files import read_case
from src.data.split import write_split
from src.data.volume_files import read_volume, write_volume
from src.errors import DataError, UserError, entry_point
from src.files import write_text

SPLITS = {"train.csv": 24, "val.csv": 5, "unseen.csv": 1}
SCALED_MAXIMUM = 4095  # 12 bits, the range of most MR scanners
README = """# Sample data

{count} MR volumes of the head, cropped around the hippocampus, with the hippocampus as foreground.

- Source: Medical Segmentation Decathlon, Task04_Hippocampus (http://medicaldecathlon.com), training set.
- Licence: Creative Commons Attribution-ShareAlike 4.0 International (CC-BY-SA 4.0,
  https://creativecommons.org/licenses/by-sa/4.0/). The changed volumes in this folder keep it; the licence of the
  repository's code does not apply to them.
- Cite: M. Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 4128 (2022),
  doi:10.1038/s41467-022-30695-9; A. L. Simpson et al., "A large annotated medical image dataset for the development
  and evaluation of segmentation algorithms", arXiv:1902.09063 (2019).

## What was changed

- The first {count} sound training cases by number, renamed `Case00` to `Case{last:02d}` (table below).
- NIfTI became compressed MetaImage; size, spacing, origin and direction are the source's.
- Labels 1 (anterior) and 2 (posterior) both became 1.
- Images are int16. Whole-numbered images are unchanged; images with fractions were scaled linearly from
  0…maximum to 0…{maximum} and rounded.

Made with `scripts/make_sample.py`. Splits: `train.csv` (24 cases), `val.csv` (5), `unseen.csv` (1, for prediction).

| case | source | image |
|---|---|---|
"""


def to_int16(image: np.ndarray) -> tuple[np.ndarray, str]:
    """Store as it is where that loses nothing, else scale 0…maximum to 12 bits; also say which."""
    limits = np.iinfo(np.int16)
    if np.array_equal(image, np.round(image)) and limits.min <= image.min() and image.max() <= limits.max:
        return image.astype(np.int16), "unchanged"
    factor = SCALED_MAXIMUM / float(image.max())
    return np.round(image.astype(np.float64) * factor).astype(np.int16), f"times {factor:.6g}"


def convert(source: Path, source_id: str, case: Case) -> str:
    """Write one case, check it, and return what was done to its intensities."""
    image, native = read_volume(source / "imagesTr" / f"{source_id}.nii.gz")
    label, grid = read_volume(source / "labelsTr" / f"{source_id}.nii.gz")
    stored, change = to_int16(image)
    write_volume(case.image_path, stored, native)
    write_volume(case.label_path, (label > 0.5).astype(np.uint8), grid)
    read_case(case)
    return change


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="MSD_TASK04_FOLDER", help="holds imagesTr/ and labelsTr/")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, e.g. data/sample")
    arguments = parser.parse_args()
    count = sum(SPLITS.values())
    names = [f"Case{number:02d}.mhd" for number in range(count)]
    rows: list[str] = []
    for path in sorted((arguments.source / "imagesTr").glob("hippocampus_*.nii.gz")):
        if len(rows) == count:
            break
        name, source_id = names[len(rows)], path.name.removesuffix(".nii.gz")
        case = Case(name.removesuffix(".mhd"), arguments.out / prostate.IMAGE_FOLDER / name,
                    arguments.out / prostate.LABEL_FOLDER / prostate.label_name(name))
        try:
            change = convert(arguments.source, source_id, case)
        except DataError as error:  # the next sound case takes the name
            print(f"{source_id} left out: {error}", file=sys.stderr)
        else:
            rows.append(f"| {case.case_id} | {source_id} | {change} |\n")
    if len(rows) < count:
        raise UserError(f"{len(rows)} sound cases in {arguments.source}, expected {count}; "
                        "give the unpacked folder Task04_Hippocampus")
    for file, number in SPLITS.items():
        write_split(arguments.out / file, names[:number])
        names = names[number:]
    text = README.format(count=count, last=count - 1, maximum=SCALED_MAXIMUM)
    write_text(arguments.out / "README.md", text + "".join(rows))


if __name__ == "__main__":
    sys.exit(main())
