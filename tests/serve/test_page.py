"""The page in headless Chromium: dropping a volume, looking at it, and what goes wrong."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.helpers import THREE_CLASSES as MANAGER
from tests.inference.helpers import bright_halves
from tests.serve.helpers import Client, Gate, bright_file, serving

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
if CHROMIUM is None:
    pytest.skip("no Chromium on PATH: apt-get install chromium", allow_module_level=True)

DROP = """([name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: carried }));
    if (kind === "dragover") window.invited = !document.getElementById("over").hidden;
  }
}"""
# How many pixels of the canvas are clearly red or orange, the colours of classes 1 and 2
COLOURED = """() => {
  const canvas = document.getElementById("slice");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let [red, orange] = [0, 0];
  for (let place = 0; place < data.length; place += 4) {
    if (data[place] > data[place + 2] + 60) data[place + 1] > data[place + 2] + 30 ? orange++ : red++;
  }
  return [red, orange];
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        # Chromium's sandbox needs rights that containers and root do not have.
        started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(bright_halves(), MANAGER, upload_bytes=1 << 20) as client:
        yield client


@pytest.fixture
def page(browser, client):
    """The page, without any network but the service; it may write no error to the console but those of HTTP."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, color_scheme="light")
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text)
              if message.type == "error" and "status of" not in message.text else None)
    home = f"http://127.0.0.1:{client.port}/"
    opened.route("**/*", lambda route: route.continue_() if route.request.url.startswith(home) else (
        problems.append(route.request.url), route.abort()))
    opened.goto(home)
    yield opened
    context.close()
    assert problems == []


def choose(page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})


def slice_number(page) -> int:
    return int(re.search(r"slice (\d+) of", page.inner_text("#where"))[1])


def test_drop_look_and_download(page, client, tmp_path):
    content = bright_file(tmp_path, "Case 7.nii.gz")
    assert page.is_hidden("#viewer")
    assert "a model · 2 classes" in page.inner_text("#model")
    page.evaluate(DROP, ["Case 7.nii.gz", list(content)])
    page.wait_for_selector("#viewer", state="visible")
    assert page.evaluate("window.invited")
    assert page.is_hidden("#over")
    assert page.inner_text("#title") == "Case 7_test.nii.gz"
    rows = page.locator("#classes tr").all_inner_texts()
    assert [row.split("\t")[0].strip() for row in rows] == ["Class 1", "Class 2"]
    # Half of the ellipsoid of 8 x 9 x 10 mm, 4/3 π r1 r2 r3 = 3.02 ml, cut short by the volume's 28 x 35 x 30 mm
    assert [float(row.split()[-2]) for row in rows] == pytest.approx([1.5, 1.5], abs=0.2)
    assert [page.inner_text(f"#end-{side}") for side in ("left", "right", "top", "bottom")] == ["R", "L", "A", "P"]

    red, orange = page.evaluate(COLOURED)
    assert min(red, orange) > 2000
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "Case 7_test.nii.gz"
    assert Path(download.value.path()).read_bytes() == client.post("Case 7.nii.gz", content)[2]


def test_slices_planes_and_opacity(page, tmp_path):
    choose(page, "a.mha", bright_file(tmp_path, "a.mha"))
    page.wait_for_selector("#viewer", state="visible")
    fullest = slice_number(page)
    assert 9 <= fullest <= 12  # of 20; the ellipsoid's middle is at 10.5
    page.keyboard.press("ArrowUp")
    assert slice_number(page) == fullest + 1
    page.keyboard.press("Home")
    assert slice_number(page) == 1
    assert page.evaluate(COLOURED) == [0, 0]
    page.keyboard.press("End")
    assert (slice_number(page), page.input_value("#position")) == (20, "19")
    page.keyboard.press("PageDown")
    assert slice_number(page) == 10
    page.keyboard.press("End")
    page.hover("#slice")
    page.mouse.wheel(0, -120)
    # Not wait_for_function: when it has to ask again it evaluates a string, which the page's policy forbids.
    playwright.expect(page.locator("#position")).to_have_value("16", timeout=30_000)  # three slices a notch
    page.fill("#position", "3")
    assert slice_number(page) == 4
    page.keyboard.press("m")
    assert slice_number(page) == fullest

    filled = sum(page.evaluate(COLOURED))
    page.click("[data-style=outline]")
    outlined = sum(page.evaluate(COLOURED))
    assert 0 < outlined < filled / 3
    page.keyboard.press("h")
    assert page.evaluate(COLOURED) == [0, 0]
    assert page.get_attribute("[data-style=hidden]", "aria-pressed") == "true"
    page.keyboard.press("h")
    page.fill("#opacity", "0")
    assert page.evaluate(COLOURED) == [0, 0]
    page.fill("#opacity", "100")
    assert sum(page.evaluate(COLOURED)) >= filled

    page.keyboard.press("2")
    assert page.inner_text("#where").startswith("Coronal, slice ")
    assert [page.inner_text(f"#end-{side}") for side in ("left", "right", "top", "bottom")] == ["R", "L", "S", "I"]
    page.click("#planes button:last-child")
    assert page.inner_text("#where").startswith("Sagittal, slice ")
    assert [page.inner_text(f"#end-{side}") for side in ("left", "right", "top", "bottom")] == ["A", "P", "S", "I"]
    assert sum(page.evaluate(COLOURED)) > 2000

    # Brighter and darker: the corner of the volume is grey.
    def grey() -> int:
        return page.evaluate("""() => { const canvas = document.getElementById("slice");
            return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[1] }""")

    page.keyboard.press("h")
    page.fill("#brightness", "-100")
    dark = grey()
    page.fill("#brightness", "100")
    assert dark < grey()


def test_errors_are_shown_and_lose_nothing(page, tmp_path):
    sound = bright_file(tmp_path, "a.nii")
    choose(page, "a.nii", sound)
    page.wait_for_selector("#viewer", state="visible")
    choose(page, "cut.nii", sound[:-5])
    page.wait_for_selector("#error", state="visible")
    assert "bytes unpacked, the header asks for" in page.inner_text("#error-text")
    assert page.is_visible("#viewer")
    assert page.inner_text("#title") == "a_test.nii"
    assert page.is_hidden("#again")
    page.click("#dismiss")
    assert page.is_hidden("#error")
    choose(page, "picture.png", b"x")  # told without asking the service
    assert "picture.png: expected .mha, .nii" in page.inner_text("#error-text")
    choose(page, "a.nii", bytes(2 << 20))
    assert "has 2.0 MiB; the server takes up to 1.0 MiB" in page.inner_text("#error-text")
    choose(page, "a.nii", sound)
    page.wait_for_selector("#error", state="hidden")


def test_both_colour_schemes_and_a_narrow_screen(page):
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.emulate_media(color_scheme="dark")
    assert background() != light
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_cancel_and_try_again(browser, tmp_path):
    content = bright_file(tmp_path, "a.nii")
    gate = Gate()
    with serving(gate, places=1) as client:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{client.port}/")
        choose(page, "a.nii", content)
        assert gate.waiting.acquire(timeout=30)
        playwright.expect(page.locator("#busy-text")).to_contain_text("segmented", timeout=30_000)
        page.click("#cancel")
        page.wait_for_selector("#ask", state="visible")
        choose(page, "a.nii", content)  # the network is still at the first one
        page.wait_for_selector("#again", state="visible")
        assert page.inner_text("#error-title") == "The server is busy"
        assert re.search(r"It may work in \d+ s\.", page.inner_text("#error-text"))
        gate.open.set()
        client.until_taken(0)
        page.click("#again")
        page.wait_for_selector("#viewer", state="visible")
        context.close()
