"""serve.py from its command line, with a bundle: the masks of predict.py to the byte, and an orderly end."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import mindspore as ms
import pytest

import predict as predict_script
import serve as serve_script
from src.backend import create_backend
from src.checkpoint import save_checkpoint
from src.data.volume_files import read_volume, write_volume
from src.inference.export import export_checkpoint
from src.inference.golden import SAMPLE_DATA
from src.networks import build_network
from src.overrides import load_recipe, plain
from tests.serve.helpers import Client

ROOT = Path(serve_script.__file__).parent
OVERRIDES = ["base_channels=2", "VolSize=[16,16,16]", "dstRes=[3,3,3]", "largest_component=false"]
NAMES = ("Case24.mha", "Case25.nii", "Case26.nii.gz", "Case27.mhd")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """An untrained V-Net."""
    create_backend("CPU")
    ms.set_seed(3)
    recipe = load_recipe(overrides=OVERRIDES)
    folder = tmp_path_factory.mktemp("served")
    save_checkpoint(folder / "a.ckpt", build_network(recipe),
                    {"recipe_name": "vnet_promise12", "recipe": plain(recipe), "epoch": 1, "step": 1})
    return export_checkpoint(folder / "a.ckpt", str(folder / "vnet"), ("MINDIR",))


def test_masks_are_those_of_predict_py_to_the_byte(bundle, tmp_path):
    uploads = {}
    for name in NAMES:
        image, geometry = read_volume(SAMPLE_DATA / "img" / f"{name.split('.')[0]}.mhd")
        write_volume(tmp_path / "in" / name, image, geometry)
        uploads[name] = (tmp_path / "in" / name).read_bytes()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted((tmp_path / "in").glob("Case27*")):
            archive.write(path, path.name)
    uploads["Case27.zip"] = packed.getvalue()
    del uploads["Case27.mhd"]
    arguments = ["--bundle", str(bundle), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert predict_script.main(arguments) == 0

    log = tmp_path / "serve.log"
    with log.open("wb") as stream:
        server = subprocess.Popen([sys.executable, str(ROOT / "serve.py"), "--bundle", str(bundle), "--port", "0"],
                                  cwd=tmp_path, stdout=stream, stderr=subprocess.STDOUT,
                                  env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        client = Client(port_of(server, log))
        masks = {name: client.post(name, content) for name, content in uploads.items()}
        assert client.get("/health")[0] == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
    assert {name: answer[0] for name, answer in masks.items()} == dict.fromkeys(uploads, 200)
    found = {name.replace(".", "_test.", 1): answer[2] for name, answer in masks.items()}
    with zipfile.ZipFile(BytesIO(found.pop("Case27_test.zip"))) as archive:
        found |= {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "out" / "report.html").unlink()
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    foreground = [read_volume(tmp_path / "out" / name)[0].mean() for name in found if not name.endswith(".zraw")]
    assert min(foreground) < max(foreground)  # the test would see one mask taken for another
    text = log.read_text()
    assert "golden case reproduced" in text
    assert text.endswith("ended\n")
    assert "Traceback" not in text
    assert "Case2" not in text  # names may be patients'


def port_of(server: subprocess.Popen, log: Path) -> int:
    """Wait until the service says where it listens."""
    for _ in range(1200):
        if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        try:
            server.wait(0.25)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"it does not serve: {log.read_text()}")


def test_a_port_that_is_taken(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve_script.main(["--bundle", str(tmp_path), "--port", port]) == 2
    assert f"--port {port}: cannot listen there (Address already in use); choose another" in capsys.readouterr().err


def test_a_bundle_that_is_none(tmp_path, capsys):
    assert serve_script.main(["--bundle", str(tmp_path / "none"), "--port", "0"]) == 2
    assert "none: no such folder; expected one that export.py wrote" in capsys.readouterr().err


def test_packages_that_are_missing(monkeypatch, tmp_path, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(serve_script, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert serve_script.main(["--bundle", str(tmp_path)]) == 2
    assert "error: serve.py needs uvicorn; pip install -r requirements-serve.txt" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--set", "tta=x"], ["--bundle", "x", "--ckpt_path", "y"]])
def test_arguments_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit):
        serve_script.main(["--bundle", "x", *arguments])
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [
    ("time_limit", "0"), ("time_limit", "inf"), ("time_limit", "nan"), ("places", "-1"), ("max_voxels", "0"),
    ("max_upload_mib", "inf"), ("max_upload_mib", "nan"), ("max_upload_mib", "1e308")])
def test_limits_that_are_none(flag, value, monkeypatch, capsys):
    monkeypatch.setattr(serve_script, "setup_logging", lambda: pytest.fail("it began"))
    with pytest.raises(SystemExit) as caught:
        serve_script.main(["--bundle", "x", f"--{flag}", value])
    assert caught.value.code == 2
    assert re.search(rf"--{flag} is \S+, expected a finite number above 0", capsys.readouterr().err)
