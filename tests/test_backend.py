"""Device, precision and ranks; Ascend and GPU by recorded calls, since none is at hand."""

import mindspore as ms
import pytest

from src import backend as module
from src.backend import Backend, base_learning_rate, create_backend
from src.config import load_recipe
from src.errors import UserError


@pytest.fixture
def recorded(monkeypatch):
    """Record what would be asked of MindSpore, so that other devices can be asked for."""
    calls = []
    monkeypatch.setattr(module.ms, "set_device", lambda *args: calls.append(("set_device", *args)))
    monkeypatch.setattr(module.ms, "set_auto_parallel_context", lambda **kw: calls.append(("parallel", kw)))
    monkeypatch.setattr(module.communication, "init", lambda: calls.append(("init",)))
    monkeypatch.setattr(module.communication, "get_rank", lambda: 1)
    monkeypatch.setattr(module.communication, "get_group_size", lambda: 4)
    return calls


def test_cpu_is_one_process_in_fp32():
    backend = create_backend("CPU", recipe=load_recipe())
    assert backend == Backend("CPU", 0, 0, 1, "O0", "off")
    assert backend.is_main
    assert backend.describe()["mindspore"] == ms.__version__


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
def test_absent_device_is_one_line_with_a_remedy(target):
    with pytest.raises(UserError) as caught:
        create_backend(target)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{target} is not available" in message
    assert "--device_target CPU" in message
    create_backend("CPU")


def test_unknown_device():
    with pytest.raises(UserError, match="Ascend, GPU, CPU"):
        create_backend("TPU")


def test_distributed_ranks(recorded):
    backend = create_backend("Ascend", 3, distribute=True, device_num=4, recipe=load_recipe())
    assert recorded[0] == ("set_device", "Ascend", 3)
    assert recorded[1] == ("init",)
    assert recorded[2][1]["gradients_mean"] is True
    assert (backend.rank, backend.world_size, backend.is_main) == (1, 4, False)


@pytest.mark.parametrize(("variables", "device"), [
    ({"OMPI_COMM_WORLD_LOCAL_RANK": "3"}, 3),  # mpirun
    ({"MS_ROLE": "MS_WORKER"}, None),  # msrun: MindSpore shares out the cards
    ({}, 5)])  # rank table: the launcher says which
def test_card_of_a_rank(recorded, monkeypatch, variables, device):
    for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MS_ROLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    create_backend("GPU", 5, distribute=True, device_num=4)
    assert recorded[0] == ("set_device", "GPU", device)
    create_backend("GPU", 5)
    assert recorded[-1] == ("set_device", "GPU", 5)


def test_any_rank_sums_over_the_ranks(monkeypatch):
    assert (Backend("CPU").any_rank(True), Backend("CPU").any_rank(False)) == (True, False)
    monkeypatch.setattr(module.ops, "AllReduce", lambda op: lambda flags: flags + 1)  # another rank says yes
    assert Backend("CPU", world_size=2).any_rank(False) is True
    monkeypatch.setattr(module.ops, "AllReduce", lambda op: lambda flags: flags)
    assert Backend("CPU", world_size=2).any_rank(False) is False


def test_wrong_number_of_ranks(recorded):
    with pytest.raises(UserError, match="--device_num says 8 ranks, the launcher started 4"):
        create_backend("Ascend", distribute=True, device_num=8)


@pytest.mark.parametrize(("target", "overrides", "expected"), [
    ("CPU", [], ("O0", "off")),
    ("CPU", ["loss_scaling=fixed"], ("O0", "fixed")),
    ("CPU", ["amp_level=bf16"], ("bf16", "off")),
    ("Ascend", [], ("O2", "dynamic")),
    ("GPU", ["amp_level=O3", "loss_scaling=fixed"], ("O3", "fixed")),
    ("GPU", ["amp_level=O0"], ("O0", "off")),
])
def test_precision(recorded, target, overrides, expected):
    backend = create_backend(target, recipe=load_recipe(overrides=overrides))
    assert (backend.amp_level, backend.loss_scaling) == expected


def test_half_precision_is_refused_on_cpu():
    with pytest.raises(UserError, match="found 'O2', expected on CPU auto or one of O0, bf16"):
        create_backend("CPU", recipe=load_recipe(overrides=["amp_level=O2"]))
    with pytest.raises(UserError, match="found 'bf16', expected on Ascend auto or one of O0, O2, O3"):
        module._resolve_precision("Ascend", load_recipe(overrides=["amp_level=bf16"]))


def test_base_learning_rate_by_device():
    recipe = load_recipe(overrides=["lr=0.25", "lr_ascend=0.5"])
    assert [base_learning_rate(Backend(d), recipe) for d in ("CPU", "GPU", "Ascend")] == [0.25, 0.25, 0.5]
