"""What a benchmark writes: figures as JSON, a table, and a chart."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.benchmark.run import PERCENTILES
from src.files import atomic_path, write_json, write_text
from src.machine import environment
from src.metrics.text import text_table
from src.report.figures import DPI, figure_png
from src.report.html import package_versions

logger = logging.getLogger(__name__)

JSON_NAME, TABLE_NAME, CHART_NAME = "benchmark.json", "benchmark.txt", "benchmark.png"
_TEXT, _GRID = "#3b4452", "#e3e7ee"
_COLOURS = {"graph": "#4f7fd6", "eager": "#e39a4a"}
_LOG_FROM = 20  # times between latencies, from which on their axis is logarithmic
_TITLES = {"train": "Training step", "infer": "Inference"}


def write_results(folder: Path, results: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write `benchmark.json`, `benchmark.txt` and, where anything was measured, `benchmark.png`; log the table.

    Args:
        folder: made where it is missing.
        results: see `run_jobs`.
        about: how they were measured: command, settings.
    """
    comparisons = compare(results)
    write_json(folder / JSON_NAME, {**about, "environment": circumstances(), "results": list(results),
                                    "comparisons": comparisons})
    text = format_results(results, comparisons)
    write_text(folder / TABLE_NAME, text + "\n")
    if any(result["status"] == "measured" for result in results):
        with atomic_path(folder / CHART_NAME) as temporary:
            temporary.write_bytes(chart_png(results, str(about.get("title", ""))))
    else:
        (folder / CHART_NAME).unlink(missing_ok=True)
    logger.info("%s", text)


def circumstances() -> dict[str, Any]:
    """Return where it was measured, and what else decides about speed: usable cores, load, threads, versions."""
    return {**environment(), "usable_cores": len(os.sched_getaffinity(0)), "load_average": list(os.getloadavg()),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"), "versions": package_versions()}


def compare(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how results that differ in one setting compare, by images a second.

    Returns:
        For each pair its `kind`: mode (graph over eager), precision (over fp32), or weak_scaling (over as many times
        one rank); `name`, the compared job, `against`, the other one, and `ratio`, above 1 where the former is faster.
    """
    def other(result: Mapping[str, Any], **changes: Any) -> Mapping[str, Any] | None:
        wanted = {key: result[key] for key in ("phase", "mode", "precision", "ranks", "batch_size")} | changes
        return next((found for found in measured if all(found[key] == value for key, value in wanted.items())), None)

    measured = [result for result in results if result["status"] == "measured"]
    found = []
    for result in measured:
        pairs = {"mode": other(result, mode="eager") if result["mode"] != "eager" else None,
                 "precision": other(result, precision="fp32") if result["precision"] != "fp32" else None,
                 "weak_scaling": other(result, ranks=1) if result["ranks"] > 1 else None}
        for kind, base in pairs.items():
            if base is not None:
                times = result["ranks"] if kind == "weak_scaling" else 1
                found.append({"kind": kind, "name": result["name"], "against": base["name"],
                              "ratio": result["images_per_second"] / (times * base["images_per_second"])})
    return found


def format_results(results: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The results as a table, and under it the comparisons, notes, and what could not be measured."""
    head = ["phase", "mode", "precision", "ranks", "batch", "images/s", *(f"p{p} [ms]" for p in PERCENTILES),
            "first [s]", "memory [MiB]"]
    body = []
    for result in results:
        row = [str(result[key]) for key in ("phase", "mode", "precision", "ranks", "batch_size")]
        if result["status"] == "measured":
            latency = result["latency_ms"]
            row += [f"{result['images_per_second']:.3f}", *(f"{latency[f'p{p}']:.1f}" for p in PERCENTILES),
                    f"{result['first_seconds']:.1f}", f"{result['peak_memory_mib']:.0f}"]
        else:
            row += [result["status"], *[""] * (len(head) - len(row) - 1)]
        body.append(row)
    lines = [text_table(head, body)]
    wording = {"mode": "{name}: {ratio:.2f} times as fast as eager",
               "precision": "{name}: {ratio:.2f} times as fast as in fp32",
               "weak_scaling": "{name}: weak scaling {ratio:.2f} (1 is ideal)"}
    lines += [wording[pair["kind"]].format(**pair) for pair in comparisons]
    lines += [f"{result['name']}: {result['status']}: {result['reason']}" for result in results if result["reason"]]
    lines += list(dict.fromkeys(f"note: {note}" for result in results for note in result.get("notes", ())))
    return "\n".join(lines)


def chart_png(results: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Throughput as bars and latency from p50 (dot) to p99 (line's end) of what was measured, a row a phase, as PNG.

    Raises:
        ValueError: nothing was measured.
    """
    phases = {phase: [result for result in results if result["phase"] == phase and result["status"] == "measured"]
              for phase in _TITLES}
    phases = {phase: found for phase, found in phases.items() if found}
    if not phases:
        raise ValueError("nothing was measured, so there is nothing to draw")
    heights = [0.9 + 0.34 * len(found) for found in phases.values()]
    figure = Figure(figsize=(11.0, sum(heights) + 0.5), dpi=2 * DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(len(phases), 2, squeeze=False, height_ratios=heights, width_ratios=(1.25, 1))
    for (phase, found), (left, right) in zip(phases.items(), panels, strict=True):
        _draw_phase(left, right, found, _TITLES[phase])
    if title:
        figure.suptitle(title, fontsize=11, color=_TEXT)
    return figure_png(figure)


def _short(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _draw_phase(left: Axes, right: Axes, results: Sequence[Mapping[str, Any]], title: str) -> None:
    places = np.arange(len(results))[::-1]
    colours = [_COLOURS[result["mode"]] for result in results]
    rates = [result["images_per_second"] for result in results]
    ranked = any(result["ranks"] > 1 for result in results)
    names = [f"{result['mode']}, {result['precision']}, batch {result['batch_size']}"
             + (f", {result['ranks']} rank{'s' * (result['ranks'] > 1)}" if ranked else "") for result in results]
    left.barh(places, rates, height=0.66, color=colours)
    for place, rate in zip(places, rates, strict=True):
        left.text(rate, place, f" {_short(rate)}", va="center", ha="left", fontsize=8.5, color=_TEXT)
    left.set_xlim(0, 1.12 * max(rates))
    left.set_title(f"{title}: images/s", loc="left", fontsize=10.5, fontweight="bold", color=_TEXT)
    for place, result, colour in zip(places, results, colours, strict=True):
        latency = result["latency_ms"]
        right.hlines(place, latency["p50"], latency["p99"], color=colour, linewidth=2.4)
        right.plot(latency["p50"], place, "o", color=colour, markersize=6)
        right.text(latency["p99"], place, f"   {_short(latency['p50'])} / {_short(latency['p99'])}", va="center",
                   ha="left", fontsize=8.5, color=_TEXT)
    fastest = min(result["latency_ms"]["p50"] for result in results)
    slowest = max(result["latency_ms"]["p99"] for result in results)
    if slowest > _LOG_FROM * fastest:
        right.set_xscale("log")
        right.set_xlim(fastest / 1.5, slowest * (slowest / fastest) ** 0.4)  # room for the last number
    else:
        right.set_xlim(0, 1.4 * slowest)
    right.set_title("Latency in ms: p50 (dot) / p99 (end)", loc="left", fontsize=10.5, fontweight="bold", color=_TEXT)
    left.set_yticks(places, names)
    right.set_yticks(places, [""] * len(results))
    for axes in (left, right):
        axes.set_ylim(-0.6, len(results) - 0.4)
        axes.tick_params(which="both", colors=_TEXT, labelsize=8.5, length=0)
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
