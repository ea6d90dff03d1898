"""Plain lines on stdout, dated ones in the run's file."""

import logging
import re

from src.log import setup_logging


def test_console_is_plain_and_the_file_is_dated(tmp_path, capsys):
    setup_logging(tmp_path / "run" / "train.log")
    logging.getLogger("x").info("epoch: 1 step: 2, loss is 0.5")
    logging.getLogger("x").warning("careful")
    setup_logging()
    assert capsys.readouterr().out == "epoch: 1 step: 2, loss is 0.5\nwarning: careful\n"
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO epoch: 1 step: 2, loss is 0.5", lines[0])
    assert lines[1].endswith("WARNING careful")


def test_quiet_ranks_still_warn(capsys):
    setup_logging(quiet=True)
    logging.getLogger("x").info("hidden")
    logging.getLogger("x").warning("shown")
    setup_logging()
    assert capsys.readouterr().out == "warning: shown\n"
