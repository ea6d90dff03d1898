"""Files appear whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.files import atomic_path, claim_folder, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent


def test_text_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei, 二")
    assert path.read_text(encoding="utf-8") == "zwei, 二"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failing_writer_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.mhd"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        assert temporary.suffix == ".mhd"
        assert temporary.parent == tmp_path
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mhd"]


def test_a_folder_belongs_to_one_process_until_that_ends(tmp_path):
    program = ("import sys; from pathlib import Path; from src.files import claim_folder; "
               "print(claim_folder(Path(sys.argv[1])), flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == "True\n"
        assert not claim_folder(tmp_path)
        other.kill()
    assert claim_folder(tmp_path) and claim_folder(tmp_path / "."), "its own as often as it likes"
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()
