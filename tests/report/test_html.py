import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.metrics.cases import METRICS, evaluate_case, summarise
from src.report.figures import overlay_png
from src.report.html import duration, package_versions, png_size, write_report

VOID = {"meta", "img", "source", "br", "link", "input"}
EVIL = """<script>alert("x")</script>'&"""


class Page(HTMLParser):
    """Elements with attributes and text; fails where tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "parents": [parent["tag"] for parent in self.open], **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, tag, inside=None):
        return [e for e in self.elements if e["tag"] == tag and (inside is None or inside in e["parents"])]


def box(start, size=8, shape=(24, 24, 6)):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[start : start + size, 6:18, 1:5] = 1
    return mask


@pytest.fixture(scope="module")
def cases():
    predictions = {"Case01": box(8), "Case02": box(12), "Case03": box(9), EVIL: box(8, 0)}
    rows = [evaluate_case(case_id, mask, box(8), (0.5, 0.5, 3.0)) for case_id, mask in predictions.items()]
    image = np.random.default_rng(0).normal(size=(24, 24, 6))
    return rows, {case_id: overlay_png(image, mask, box(8)) for case_id, mask in predictions.items()}


@pytest.fixture(scope="module")
def history():
    return pd.DataFrame(
        {"epoch": [1, 2], "step": [4, 8], "loss": [0.9, 0.4], "lr": [1e-4, 2e-4], "seconds": [60.0, 65.0],
         "val_dice": [np.nan, 0.7]}
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory, cases, history):
    rows, pictures = cases
    path = tmp_path_factory.mktemp("report") / "run" / "report.html"
    recipe = {"VolSize": [128, 128, 64], "augment": False, "note": "a < b & c"}
    notes = ["Case02: 3.1 % of the reference lies <outside>"]
    write_report(path, f"Run {EVIL}", recipe, rows, summarise(rows), history, pictures, notes, {"mindspore": "2.8.0"})
    return path


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text(encoding="utf-8"))


def test_table_is_sorted_worst_first(page):
    names = [cell["text"] for cell in page.all("th", inside="tbody") if "details" not in cell["parents"]]
    assert names[:4] == [EVIL, "Case02", "Case03", "Case01"]
    values = [float(cell["data-value"]) for cell in page.all("td", inside="tbody") if "data-value" in cell]
    dice = values[:: len(METRICS)]
    assert dice == pytest.approx([0.0, 0.5, 0.875, 1.0])
    assert values[2 * len(METRICS) + 2] == pytest.approx(0.5), "Hausdorff of Case03: one voxel of 0.5 mm"


def test_means_and_flags(page):
    foot = [cell["text"] for cell in page.all("td", inside="tfoot")]
    assert foot[0] == f"{(0 + 0.5 + 0.875 + 1) / 4:.4f}"
    text = page.all("body")[0]["text"]
    assert "1 of 4 cases flagged: 1 empty prediction (counted as Dice 0" in text
    tiles = {tile["text"] for tile in page.all("dd")}
    assert {"0.5938", "4"} <= tiles


def test_pictures_follow_the_table_and_decode(page, cases):
    captions = [caption["text"] for caption in page.all("figcaption")]
    assert [re.split("Dice [0-9]", caption)[0] for caption in captions] == [EVIL, "Case02", "Case03", "Case01"]
    images = page.all("img", inside="figure")
    for image, case_id in zip(images, [EVIL, "Case02", "Case03", "Case01"], strict=True):
        head, _, content = image["src"].partition(",")
        assert head == "data:image/png;base64"
        png = base64.b64decode(content, validate=True)
        assert png == cases[1][case_id]
        assert Image.open(io.BytesIO(png)).size == (int(image["width"]), int(image["height"]))
    anchors = [figure["id"] for figure in page.all("figure")]
    links = [link["href"] for link in page.all("a")]
    assert links == [f"#{anchor}" for anchor in anchors] and len(set(anchors)) == 4


def test_curves_for_light_and_dark_pages(page):
    images = page.all("img", inside="picture")
    assert [image["alt"].split(" over")[0] for image in images] == ["Training loss", "Validation Dice", "Learning rate"]
    for image in (*(image["src"] for image in images), *(source["srcset"] for source in page.all("source"))):
        assert Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))).size == (880, 580)


def test_legend_names_both_outlines(page):
    keys = {element["text"]: element for element in page.all("span") if element.get("class") == "key"}
    assert list(keys) == ["Prediction", "Reference (ground truth)"]
    swatches = [element["style"] for element in page.all("i")]
    assert "#ff2d2d" in swatches[0] and "#25d366" in swatches[1]


def test_nothing_comes_from_the_network(report, page):
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", report.read_text(encoding="utf-8"))
    assert not re.search(r"(?:https?:)?//\w|@import|url\(", text)
    assert not page.all("link") and not [script for script in page.all("script") if "src" in script]
    assert all(element.get(name, "data:").startswith(("data:", "#"))
               for element in page.elements for name in ("src", "srcset", "href"))  # fmt: skip


def test_only_our_script_may_run(page):
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_everything_is_escaped(report, page):
    text = report.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "<outside>" not in text
    assert page.all("title")[0]["text"] == page.all("h1")[0]["text"] == f"Run {EVIL}"
    cells = dict(zip([c["text"] for c in page.all("th", inside="details")],
                     [c["text"] for c in page.all("td", inside="details")], strict=True))  # fmt: skip
    assert cells == {"VolSize": "[128, 128, 64]", "augment": "false", "note": "a < b & c", "mindspore": "2.8.0"}
    assert "3.1 % of the reference lies <outside>" in page.all("li")[0]["text"]


def test_facts_of_the_run(page):
    assert "2 epochs · 2 min 05 s of training · 4 cases evaluated" in page.all("header")[0]["text"]


def test_appears_whole(report):
    assert [entry.name for entry in report.parent.iterdir()] == ["report.html"]


def test_prediction_only(tmp_path, cases):
    path = tmp_path / "report.html"
    write_report(path, "Predictions", {}, [], None, None, {"b": cases[1]["Case01"], "a": cases[1]["Case02"]},
                 outlines=["prediction"])  # fmt: skip
    page = Page(path.read_text(encoding="utf-8"))
    assert [caption["text"] for caption in page.all("figcaption")] == ["a", "b"]
    assert not page.all("thead") and not page.all("picture")
    assert [e["text"] for e in page.all("span") if e.get("class") == "key"] == ["Prediction"]
    assert [summary["text"] for summary in page.all("summary")] == ["Versions"]


def test_without_pictures_and_flags(tmp_path, cases, history):
    rows = cases[0][:3]
    path = tmp_path / "report.html"
    write_report(path, "Run", {}, rows, summarise(rows), history.iloc[:0], {})
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.all("figure") and not page.all("a")
    assert "Flag" not in [head["text"] for head in page.all("th", inside="thead")]
    assert "0 of 3 cases flagged" in page.all("body")[0]["text"]


def test_several_classes_have_a_table_of_their_own(tmp_path):
    reference = box(8) + 2 * box(16, 4)
    predictions = {"Case01": reference, "Case02": box(8) + 2 * box(18, 4), "Case03": box(8)}
    rows = [evaluate_case(case_id, mask, reference, (0.5, 0.5, 3.0), 3) for case_id, mask in predictions.items()]
    pictures = {"Case02": overlay_png(np.zeros((24, 24, 6)), predictions["Case02"], reference)}
    path = tmp_path / "report.html"
    write_report(path, "Run", {"classes": 3}, rows, summarise(rows), None, pictures, versions={})
    page = Page(path.read_text(encoding="utf-8"))
    assert [head["text"] for head in page.all("h2")][:2] == ["Metrics, all classes as one foreground",
                                                             "Metrics of each class"]
    heads = [cell["text"].replace(" mm", "") for cell in page.all("th", inside="thead")]
    assert heads[:2] == ["Case", "Dice"] and heads[len(METRICS) + 1] == "Flag"
    assert heads[len(METRICS) + 2:] == ["Case", "Mean Dice", "Dice 1", "HD95 1", "ABD 1", "Dice 2", "HD95 2", "ABD 2"]
    names = [cell["text"] for cell in page.all("th", inside="tbody")]
    assert names == ["Case03", "Case02", "Case01"] * 2
    values = [float(cell["data-value"]) for cell in page.all("td", inside="tbody") if "data-value" in cell]
    of_classes = np.reshape(values[3 * len(METRICS):], (3, 7))
    assert of_classes[:, 4] == pytest.approx([0, 0.5, 1]), "Dice of class 2"
    assert of_classes[:, 0] == pytest.approx([0.5, 0.75, 1]), "mean over both"
    tile = page.all("dl")[0]["text"]
    assert "Mean Dice of classes" in tile and "0.7500" in tile and "Dice 1: 1.0000, Dice 2: 0.5000" in tile
    keys = [element["text"] for element in page.all("span") if element.get("class") == "key"]
    assert keys == ["Prediction, class 1", "Prediction, class 2", "Reference (ground truth), class 1",
                    "Reference (ground truth), class 2"]
    assert "#ffa31a" in page.all("i")[1]["style"] and "#22c3e6" in page.all("i")[3]["style"]
    assert "Dice 2 0.5000" in page.all("figcaption")[0]["text"]
    assert "class 2: empty prediction in 1 (counted as Dice 0" in page.all("body")[0]["text"]


def test_rows_need_their_summary(tmp_path, cases):
    rows = cases[0]
    for summary in (None, summarise(rows[:2])):
        with pytest.raises(ValueError, match="summary of 4 cases"):
            write_report(tmp_path / "report.html", "Run", {}, rows, summary, None, {})
    with pytest.raises(ValueError, match="expected a PNG"):
        write_report(tmp_path / "report.html", "Run", {}, [], None, None, {"a": b"GIF89a"})
    assert not list(tmp_path.iterdir())


def test_png_size(cases):
    assert png_size(cases[1]["Case01"]) == Image.open(io.BytesIO(cases[1]["Case01"])).size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_package_versions_name_what_is_installed():
    versions = package_versions()
    assert versions["numpy"] == np.__version__ and versions["Python"].startswith("3.")
