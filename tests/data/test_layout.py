from src.data.case import Case
from src.data.layout import Layout

LAYOUT = Layout("a", "b", lambda name: [f"seg-{name}", f"mask-{name}"])


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_the_first_label_name_that_is_there_is_taken(tmp_path):
    make(tmp_path, "a/x.nii", "a/y.nii", "a/z.nii", "b/seg-x.nii", "b/mask-x.nii", "b/mask-y.nii")
    names = ["x.nii", "y.nii", "z.nii"]
    cases, problems = LAYOUT.scan_cases(tmp_path, names)
    assert [case.label_path and case.label_path.name for case in cases] == ["seg-x.nii", "mask-y.nii", None]
    assert len(problems) == 1 and f"z: ground truth {tmp_path / 'b' / 'seg-z.nii'} is missing" in problems[0]
    assert LAYOUT.find_cases(tmp_path, names[:1]) == [Case("x", tmp_path / "a/x.nii", tmp_path / "b/seg-x.nii")]
    assert len(LAYOUT.find_cases(tmp_path, names, need_labels=False)) == 3


def test_hidden_files_and_folders_are_no_volumes(tmp_path):
    make(tmp_path, "a/x.nii.gz", "a/._x.nii.gz", "a/.y.nii", "a/notes.txt")
    (tmp_path / "a" / "z.nii").mkdir()
    assert LAYOUT.all_names(tmp_path) == ["x.nii.gz"]
    _, problems = LAYOUT.scan_cases(tmp_path, ["._x.nii.gz"])
    assert "no dot in front; correct the split file" in problems[0]


def test_a_label_without_image_is_checked_by_the_layouts_own_rule(tmp_path):
    asked = []

    def check(path, classes):
        asked.append((path.name, classes))
        return [f"{path}: bad"]

    make(tmp_path, "a/x.nii", "b/seg-y.nii")
    layout = Layout("a", "b", lambda name: [f"seg-{name}"], label_problems=check)
    _, problems = layout.scan_cases(tmp_path, ["x.nii", "y.nii"], need_labels=False, classes=4)
    assert asked == [("seg-y.nii", 4)]
    assert [problem.split(":")[0] for problem in problems] == ["y", "y"] and problems[1].endswith("seg-y.nii: bad")
