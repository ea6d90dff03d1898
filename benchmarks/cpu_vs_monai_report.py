"""What cpu_vs_monai.py says of its entries: best ones, ratios, tables and the closing lines. No measuring here."""

from collections.abc import Callable, Iterable, Sequence

from cpu_vs_monai_pool import Entry

# Edge of the volume in a closing line's name -> size.
CLOSING_SIZES = {"128": "128x128x64", "64": "64x64x32"}
GIB = 2**30


def best(entries: Iterable[Entry], prefix: str) -> Entry | None:
    """Return the fastest, by its median, of the contenders whose names start with `prefix`; None if none was timed."""
    timed = [entry for entry in entries if entry.contender.startswith(prefix) and entry.seconds]
    return min(timed, key=lambda entry: entry.median or 0.0, default=None)


def group(entries: Iterable[Entry], mode: str, size: str, batch: int) -> list[Entry]:
    """Return the entries that were measured together."""
    return [entry for entry in entries if (entry.mode, entry.size, entry.batch) == (mode, size, batch)]


def ratio(ours: Entry | None, theirs: Entry | None, value: Callable[[Entry], float | None]) -> float | None:
    """Return ours / theirs of some value; None if one of them lacks it."""
    top, bottom = (value(entry) if entry is not None else None for entry in (ours, theirs))
    return top / bottom if top is not None and bottom else None


def closing_ratios(entries: Sequence[Entry]) -> dict[str, float | None]:
    """Return the ratios of the closing lines, all at batch 1; below 1 ours is better, None where not measured.

    train_fp32_ratio: our fp32 step / MONAI's best fp32 step, medians. train_best_ratio and infer_ratio: our best /
    MONAI's best, any precision. rss_ratio: peak RSS of our training process / that of MONAI's best step at the same
    precision, the larger one of fp32 and bf16. rss_best_ratio: that of our best step / that of MONAI's best step,
    whatever their precisions. The `_min_` ratios are of the shortest steps.
    """
    result: dict[str, float | None] = {}
    for edge, size in CLOSING_SIZES.items():
        train, infer = group(entries, "train", size, 1), group(entries, "infer", size, 1)
        pairs = {"train_fp32": (best(train, "ours-fp32"), best(train, "monai-fp32")),
                 "train_best": (best(train, "ours"), best(train, "monai")),
                 "infer": (best(infer, "ours"), best(infer, "monai"))}
        for name, pair in pairs.items():
            result[f"{name}_ratio_{edge}"] = ratio(*pair, lambda entry: entry.median)
            result[f"{name}_ratio_min_{edge}"] = ratio(*pair, lambda entry: min(entry.seconds))
        memory = [ratio(best(train, f"ours-{precision}"), best(train, f"monai-{precision}"), lambda e: e.peak_rss_bytes)
                  for precision in ("fp32", "bf16")]
        result[f"rss_best_ratio_{edge}"] = ratio(*pairs["train_best"], lambda entry: entry.peak_rss_bytes)
        result[f"rss_ratio_{edge}"] = max((value for value in memory if value is not None), default=None)
    return result


def closing_lines(ratios: dict[str, float | None]) -> list[str]:
    """Return `name=value` lines, the ratios of minima first and those of medians last; nan where not measured."""
    minima = [name for name in ratios if "_min_" in name]
    order = minima + [name for name in ratios if name not in minima]
    return [f"{name}={'nan' if ratios[name] is None else format(ratios[name], '.3f')}" for name in order]


def table(entries: Sequence[Entry]) -> str:
    """Return one row an entry: times, ratios to MONAI's best of its precision and of all, memory, first step."""
    header = ("what", "size", "batch", "contender", "rounds", "median s", "min s", "max s", "/ MONAI fp32",
              "/ MONAI best", "peak RSS GiB", "first step s", "other cores", "idle cores", "note")
    rows = []
    for entry in entries:
        rivals = group(entries, entry.mode, entry.size, entry.batch)
        ratios = [ratio(entry, best(rivals, prefix), lambda e: e.median) for prefix in ("monai-fp32", "monai")]
        rows.append((entry.mode, entry.size, str(entry.batch), entry.contender, str(len(entry.seconds)),
                     number(entry.median, 3), *(number(f(entry.seconds, default=None), 3) for f in (min, max)),
                     *(number(value, 2) for value in ratios),
                     number(entry.peak_rss_bytes and entry.peak_rss_bytes / GIB, 2), number(entry.first_step, 1),
                     number(max(entry.other_cores, default=None), 2), number(entry.idle_cores, 3),
                     entry.note.replace("|", "/")))
    return markdown(header, rows)


def share_table(entries: Iterable[Entry]) -> str:
    """Return where the profiled steps spent their time, in per cent; empty if none was profiled."""
    header = ("what", "size", "batch", "contender", "convolution %", "norm, activation %", "optimiser %", "rest %",
              "profiled step s")
    rows = [(e.mode, e.size, str(e.batch), e.contender, *(f"{100 * share:.0f}" for share in shares(e.profile)),
             number(e.profile["total"], 3)) for e in entries if e.profile]
    return markdown(header, rows) if rows else ""


def shares(profile: dict[str, float]) -> tuple[float, float, float, float]:
    """Return the shares of a step in convolution, normalisation and activation, optimiser, and all the rest."""
    parts = [profile[name] / profile["total"] for name in ("convolution", "pointwise", "optimizer")]
    return parts[0], parts[1], parts[2], max(1 - sum(parts), 0.0)


def warnings(entries: Iterable[Entry]) -> list[str]:
    """Return what makes a run hard to believe: other processes at work, workers that do not rest."""
    found = []
    for entry in entries:
        name = f"{entry.mode} {entry.size} batch {entry.batch} {entry.contender}"
        if (others := max(entry.other_cores, default=0.0)) > 0.1:
            found.append(f"{name}: other processes kept {others:.2f} cores busy; repeat it on a quiet machine")
        if (idle := entry.idle_cores or 0.0) > 0.02:
            found.append(f"{name}: kept {idle:.2f} cores busy between its steps, which slowed down the others")
    return found


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, its columns aligned."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                     for line in lines)


def number(value: float | None, digits: int) -> str:
    """Return a fixed number of digits, or nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"

