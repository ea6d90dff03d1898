"""Arguments that the entry scripts share."""

import argparse

import pytest

from src.arguments import add_device_arguments, add_recipe_arguments
from src.overrides import read_changes


def test_overrides_add_up():
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    arguments = parser.parse_args(["--set", "lr=0.1", "loss=dice", "--set", "epochs=3"])
    assert read_changes(arguments.config, arguments.set) == {"lr": 0.1, "loss": "dice", "epochs": 3}
    assert parser.parse_args([]).set == []  # the default is not the list that the call before filled


@pytest.mark.parametrize(("names", "option"), [((), "--device_id"), (("--dev_id", "--device_id"), "--dev_id"),
                                               (("--dev_id", "--device_id"), "--device_id")])
def test_device(names, option):
    parser = argparse.ArgumentParser()
    add_device_arguments(parser, *names)
    arguments = parser.parse_args(["--device_target", "Ascend", option, "3"])
    assert (arguments.device_target, vars(arguments)[(names or ("--device_id",))[0][2:]]) == ("Ascend", 3)
    assert parser.parse_args([]).device_target == "CPU"
