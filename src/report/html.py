"""`report.html`: one self-contained page on a run that opens from disk, with no network and no server."""

import base64
import datetime
import hashlib
import json
import platform
import struct
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from src.files import write_text
from src.metrics.cases import Metric, Row, class_metrics, classes_of, flag_note, metrics_of, worst_first
from src.recipe_rules import is_2d
from src.report.figures import CURVES, PREDICTION_COLOURS, REFERENCE_COLOURS, available_curves, curves_png

PACKAGES = ("mindspore", "numpy", "scipy", "SimpleITK", "pandas", "matplotlib")
HEADLINES = (("dice", "Mean Dice"), ("hausdorff", "Mean Hausdorff"), ("hd95", "Mean HD95"))
OUTLINES = {
    "prediction": ("Prediction", PREDICTION_COLOURS, 3),
    "reference": ("Reference (ground truth)", REFERENCE_COLOURS, 5),
}


def write_report(
    path: str | PathLike,
    title: str,
    recipe: Mapping[str, Any],
    rows: Sequence[Row],
    summary: Mapping[str, Any] | None,
    history: pd.DataFrame | None,
    pictures: Mapping[str, bytes],
    notes: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
    outlines: Sequence[str] = ("prediction", "reference"),
) -> None:
    """Write the page of a run; sections without content are left out. Every text is escaped.

    Args:
        path: the file, written whole or not at all.
        title: heading of the page.
        recipe: the settings of the run; values of any JSON type. Its `classes`, where it has them, are in the legend;
            of a recipe for pictures distances are given in pixels.
        rows: of `evaluate_case`; shown worst Dice first, and with several classes each class in a table of its own.
            Empty when there was no reference.
        summary: of `summarise` for the same rows; None only without rows.
        history: one row an epoch with the columns epoch, loss, lr, val_dice (see `curves_png`) and seconds of
            that epoch; None or empty when nothing was trained.
        pictures: PNG of `overlay_png` by case id; in the order of the rows, then the others by name.
        notes: whatever the reader has to know: warnings, deviations, skipped cases.
        versions: name and version of what the run used; by default `package_versions()`.
        outlines: keys of `OUTLINES` that the pictures show, for the legend.

    Raises:
        ValueError: rows without a summary of as many cases, or a picture that is no PNG.
    """
    if rows and (summary is None or summary["cases"] != len(rows)):
        raise ValueError(f"expected a summary of {len(rows)} cases, got {summary and summary['cases']}")
    folder = Path(__file__).parent
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    trained = history is not None and len(history) > 0
    ordered = worst_first(rows)
    anchors = {case_id: f"case-{number}" for number, case_id in enumerate(_picture_order(ordered, pictures), 1)}
    now = datetime.datetime.now().astimezone()
    metrics = {metric.key: metric for metric in metrics_of(is_2d(recipe))}
    sections = [
        _headlines(summary, classes_of(rows), metrics) if rows and summary else "",
        _notes(notes),
        _metrics_section(rows, summary, anchors, metrics) if rows and summary else "",
        _curves(history) if trained and history is not None else "",
        _cases(anchors, pictures, {row["case_id"]: row for row in rows}, outlines, recipe.get("classes", 2), metrics),
        _settings(recipe, package_versions() if versions is None else versions),
    ]
    # The policy lets the page load nothing and run nothing but our own script, whatever a case is called.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p class="quiet">{escape(" · ".join(_facts(rows, history if trained else None, now)))}</p>
</header>
{"".join(sections)}
<footer class="quiet small">Written {now:%Y-%m-%d %H:%M:%S %Z}.</footer>
</main>
<script>{script}</script>
</body>
</html>
""",
    )


def package_versions() -> dict[str, str]:
    """Versions of Python, the operating system and the `PACKAGES` that are installed; imports none of them."""
    found = {"Python": platform.python_version(), "System": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels from a PNG's header.

    Raises:
        ValueError: it is no PNG.
    """
    if len(png) < 24 or png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise ValueError(f"expected a PNG, got {len(png)} bytes that start with {png[:8]!r}")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _facts(rows: Sequence[Row], history: pd.DataFrame | None, now: datetime.datetime) -> list[str]:
    facts = [f"{now:%d %B %Y}"]
    if history is not None:
        epochs = int(history["epoch"].max())
        facts.append(f"{epochs} epoch{'s' if epochs != 1 else ''}")
        if "seconds" in history and history["seconds"].notna().any():
            facts.append(f"{duration(float(history['seconds'].sum()))} of training")
    if rows:
        facts.append(f"{len(rows)} case{'s' if len(rows) != 1 else ''} evaluated")
    return facts


def _headlines(summary: Mapping[str, Any], classes: int, metrics: Mapping[str, Metric]) -> str:
    def tile(name: str, value: str, unit: str, detail: str, kind: str = "") -> str:
        unit = f' <span class="unit">{escape(unit)}</span>' if unit else ""
        return (
            f'<dl class="tile card{kind}"><dt>{escape(name)}</dt><dd class="value">{escape(value)}{unit}</dd>'
            f'<dd class="quiet small">{escape(detail)}</dd></dl>'
        )

    tiles = []
    if "dice_mean" in summary:
        each = ", ".join(
            f"{metric.heading}: {metric.text(summary[metric.key]['mean'])}" for metric in _class_dices(classes)
        )
        tiles.append(tile("Mean Dice of classes", metrics["dice"].text(summary["dice_mean"]["mean"]), "", each))
    for key, name in HEADLINES:
        metric, statistics = metrics[key], summary[key]
        text = {name: metric.text(statistics[name]) for name in ("mean", "sd", "median")}
        tiles.append(tile(name, text["mean"], metric.unit, f"± {text['sd']}, median {text['median']}"))
    tiles.append(tile("Cases", str(summary["cases"]), "", f"Dice {summary['dice']['min']:.3f} to "
                      f"{summary['dice']['max']:.3f}"))  # fmt: skip
    kinds = ", ".join(f"{count} {flag}" for flag, count in summary["flags"].items())
    kind = " flagged" if summary["flagged"] else ""
    tiles.append(tile("Flagged", str(summary["flagged"]), "", kinds or "no empty mask", kind))
    return f'<section class="tiles">{"".join(tiles)}</section>\n'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section class="notes"><strong>Notes</strong><ul>{items}</ul></section>\n'


def _metrics_section(
    rows: Sequence[Row], summary: Mapping[str, Any], anchors: Mapping[str, str], metrics: Mapping[str, Metric]
) -> str:
    unit = "millimetres" if metrics["hausdorff"].unit == "mm" else "pixels, between slices too,"
    distances = f"Distances are {unit} on the image's own grid."
    note = f"Worst Dice first. {distances} {flag_note(summary)}"
    further = class_metrics(classes_of(rows))
    name = "Metrics, all classes as one foreground" if further else "Metrics"
    table = _metrics_table(worst_first(rows), list(metrics.values()), summary, anchors, bool(summary["flagged"]))
    section = _table_section(name, table, note)
    if further:
        table = _metrics_table(worst_first(rows, "dice_mean"), further, summary, anchors)
        section += _table_section("Metrics of each class", table, f"Worst mean Dice first. {distances}")
    return section


def _metrics_table(
    rows: Sequence[Row], metrics: Sequence[Metric], summary: Mapping[str, Any], anchors: Mapping[str, str],
    flagged: bool = False,
) -> str:
    head = ['<th scope="col">Case</th>']
    for metric in metrics:
        unit = f' <span class="unit">{escape(metric.unit)}</span>' if metric.unit else ""
        order = ' aria-sort="ascending"' if metric is metrics[0] else ""
        head.append(f'<th scope="col" title="{escape(metric.meaning)}"{order}>{escape(metric.heading)}{unit}</th>')
    head.append('<th scope="col" class="flag">Flag</th>' if flagged else "")

    body = []
    for row in rows:
        name = escape(str(row["case_id"]))
        if row["case_id"] in anchors:
            name = f'<a href="#{anchors[row["case_id"]]}">{name}</a>'
        cells = [f'<th scope="row">{name}</th>']
        for metric in metrics:
            value = row[metric.key]
            bar = f' class="bar" style="--share:{100 * value:.1f}%"' if metric.key.startswith("dice") else ""
            cells.append(f'<td data-value="{value!r}"{bar}>{metric.text(value)}</td>')
        if flagged:
            pill = f'<span class="pill">{escape(row["flag"])}</span>' if row["flag"] else ""
            cells.append(f'<td class="flag">{pill}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")

    foot = []
    for statistic, name in (("mean", "Mean"), ("sd", "SD"), ("median", "Median")):
        cells = [f'<th scope="row">{name}</th>']
        cells += [f"<td>{metric.text(summary[metric.key][statistic])}</td>" for metric in metrics]
        foot.append(f'<tr class="{statistic}">{"".join(cells)}{"<td></td>" if flagged else ""}</tr>')
    newline = "\n"
    return f"""<table class="metrics">
<thead><tr>{"".join(head)}</tr></thead>
<tbody>
{newline.join(body)}
</tbody>
<tfoot>{"".join(foot)}</tfoot>
</table>"""


def _table_section(name: str, table: str, note: str) -> str:
    return f"""<section>
<h2>{escape(name)}</h2>
<div class="card"><div class="scroll">{table}</div>
<p class="under quiet small">{escape(note)}</p>
</div>
</section>
"""


def _curves(history: pd.DataFrame) -> str:
    panels = []
    for curve in available_curves(history):
        light, dark = (_data_uri(curves_png(history, [curve], dark=dark)) for dark in (False, True))
        panels.append(
            f'<div class="card"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" alt="{escape(CURVES[curve])} over epochs"></picture></div>'
        )
    if not panels:
        return ""
    return f'<section>\n<h2>Learning curves</h2>\n<div class="curves">{"".join(panels)}</div>\n</section>\n'


def _cases(
    anchors: Mapping[str, str], pictures: Mapping[str, bytes], rows: Mapping[str, Row], outlines: Sequence[str],
    classes: int, metrics: Mapping[str, Metric],
) -> str:
    if not anchors:
        return ""
    legend = []
    for outline in outlines:
        name, colours, width = OUTLINES[outline]
        for k in range(1, classes):
            colour = colours[(k - 1) % len(colours)]
            label = escape(f"{name}, class {k}" if classes > 2 else name)
            legend.append(f'<span class="key"><i style="border-top:{width}px solid {colour}"></i>{label}</span>')
    figures = []
    for case_id, anchor in anchors.items():
        width, height = png_size(pictures[case_id])
        name = escape(str(case_id))
        facts = ""
        if case_id in rows:
            row = rows[case_id]
            shown = [metrics[key] for key in ("dice", "hausdorff", "hd95", "rvd")]
            shown += _class_dices(classes_of([row]))
            facts = "".join(
                f'<span class="quiet small">{metric.heading} {metric.text(row[metric.key])} {metric.unit}</span>'
                for metric in shown
            )
            facts += f'<span class="pill">{escape(row["flag"])}</span>' if row["flag"] else ""
        shape = "slices" if width > 2 * height else "slices tall"
        figures.append(
            f'<figure class="card" id="{anchor}"><figcaption><b>{name}</b>{facts}</figcaption>'
            f'<div class="{shape}"><img src="{_data_uri(pictures[case_id])}" width="{width}" height="{height}" '
            f'style="max-width:{width}px" alt="Slices of {name} with outlines"></div></figure>'
        )
    newline = "\n"
    return f"""<section>
<h2>Cases</h2>
<p class="legend">{"".join(legend)}<span class="quiet small">z: slice index of the image, from 0</span></p>
{newline.join(figures)}
</section>
"""


def _class_dices(classes: int) -> list[Metric]:
    return [metric for metric in class_metrics(classes)[1:] if metric.key.startswith("dice_")]


def _settings(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    settings = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in recipe.items()
    }
    blocks = []
    for name, content in (("Recipe", settings), ("Versions", versions)):
        lines = "".join(
            f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
            for key, value in content.items()
        )
        if lines:
            blocks.append(f'<details class="card"><summary>{name}</summary><table>{lines}</table></details>\n')
    return f"<section>\n<h2>How it was made</h2>\n{''.join(blocks)}</section>\n" if blocks else ""


def _picture_order(rows: Sequence[Row], pictures: Mapping[str, bytes]) -> list[str]:
    evaluated = [row["case_id"] for row in rows if row["case_id"] in pictures]
    return evaluated + sorted(set(pictures) - set(evaluated))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
