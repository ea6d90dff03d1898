"""Entry scripts end on one message and exit code 2."""

import pytest

from src.errors import DataError, UserError, entry_point


def test_user_error_becomes_a_message_and_exit_code_2(capsys):
    @entry_point
    def main():
        raise UserError("case Case00: no such file")

    assert main() == 2
    assert capsys.readouterr().err == "error: case Case00: no such file\n"


def test_data_error_lists_every_problem():
    error = DataError(["a is wrong", "b is wrong"])
    assert str(error) == "2 problems in the data:\n  - a is wrong\n  - b is wrong"
    assert error.problems == ["a is wrong", "b is wrong"]
    assert str(DataError(["a"])).startswith("1 problem in the data:")


def test_success_and_defects_pass_through():
    assert entry_point(lambda: None)() == 0
    assert entry_point(lambda: 3)() == 3
    with pytest.raises(ZeroDivisionError):
        entry_point(lambda: 1 // 0)()


def test_file_system_errors_and_interrupts_end_without_traceback(tmp_path, capsys):
    assert entry_point(lambda: (tmp_path / "missing").read_text())() == 2
    assert f"error: {tmp_path / 'missing'}: No such file or directory; check" in capsys.readouterr().err

    def interrupted():
        raise KeyboardInterrupt

    assert entry_point(interrupted)() == 130
    assert "--resume" in capsys.readouterr().err


def test_a_kernel_without_memory_ends_without_traceback(capsys):
    words = "CPU kernel UnitForward: not enough memory for the scratch of its work: 9 MiB wanted; a smaller VolSize"

    def starved():
        raise RuntimeError(f"Launch kernel failed\n{words}\n----\nC++ call stack")

    assert entry_point(starved)() == 2
    assert capsys.readouterr().err == f"error: {words}\n"

    def broken():
        raise RuntimeError("CPU kernel UnitForward: sizes don't fit one another")

    with pytest.raises(RuntimeError, match="don't fit"):
        entry_point(broken)()
