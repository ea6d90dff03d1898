"""Tables in plain text."""

from collections.abc import Sequence


def text_table(
    head: Sequence[str], body: Sequence[Sequence[str]], foot: Sequence[Sequence[str]] = (), words_last: bool = False
) -> str:
    """Aligned columns, two spaces apart, with rules between head, body and foot.

    Args:
        head, body, foot: lines of as many cells each.
        words_last: the last column is flush left, as the first one always is; the others are flush right.
    """
    lines = [head, *body, *foot]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def aligned(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        if words_last:
            cells[-1] = line[-1]
        return "  ".join(cells).rstrip()

    rule = "-" * max(len(aligned(line)) for line in lines)
    parts = [aligned(head), rule, *map(aligned, body)]
    return "\n".join([*parts, rule, *map(aligned, foot)] if foot else parts)
