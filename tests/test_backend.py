"""Device, precision and ranks; Ascend and GPU by recorded calls, since none is at hand."""

import os

import mindspore as ms
import pytest

from src import backend as module
from src.backend import Backend, base_learning_rate, create_backend
from src.errors import UserError
from src.overrides import load_recipe


@pytest.fixture
def recorded(monkeypatch):
    """Record what would be asked of MindSpore, so that other devices can be asked for."""
    calls = []
    monkeypatch.setattr(module.ms.hal, "is_available", lambda target: True)
    monkeypatch.setattr(module.ms, "set_device", lambda *args: calls.append(("set_device", *args)))
    monkeypatch.setattr(module.ms, "set_auto_parallel_context", lambda **kw: calls.append(("parallel", kw)))
    monkeypatch.setattr(module, "_find_ranks", lambda device_num, settings: None)
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
    assert f"{target} is not available: found MindSpore {ms.__version__} with CPU only; " in message
    assert {"GPU": "build it from source with CUDA", "Ascend": "install the CANN toolkit"}[target] in message
    assert "--device_target CPU" in message
    create_backend("CPU")


def test_a_card_that_is_not_there(recorded, monkeypatch):
    def refuse(*_: object) -> None:
        raise RuntimeError("invalid device id 7\n----\n- C++ call stack\n----\nhal.cc:12")

    monkeypatch.setattr(module.ms, "set_device", refuse)
    with pytest.raises(UserError, match=r"^device 7 of GPU cannot be used \(invalid device id 7\); check --device_id"):
        create_backend("GPU", 7)


def test_a_negative_device():
    with pytest.raises(UserError, match="^--device_id -1: expected 0 or more$"):
        create_backend("CPU", -1)


def test_what_the_ranks_have_to_have_in_common(recorded, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_find_ranks", lambda device_num, settings: asked.append(settings))
    recipe = load_recipe(overrides=["val_every=3"])
    create_backend("Ascend", distribute=True, device_num=4, recipe=recipe, settings={"cases": "a-b"})
    (found,) = asked
    assert (found["val_every"], found["cases"], found["device_target"]) == (3, "a-b", "Ascend")
    assert found["code"] == module._code_in_use()
    assert found["code"].endswith(f" with MindSpore {ms.__version__}")


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


def test_wrong_number_of_ranks(recorded):
    with pytest.raises(UserError, match="--device_num says 8 ranks, the launcher started 4"):
        create_backend("Ascend", distribute=True, device_num=8)


@pytest.fixture
def found(monkeypatch):
    """Record what is done to find the other ranks, in an environment without any launcher."""
    calls = []
    environ = {name: value for name, value in os.environ.items()
               if not name.startswith(("OMPI_", "PMIX_", "MS_", "RANK_", "VNET_"))}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(module, "meet", lambda *arguments: calls.append(("meet", *arguments)))
    monkeypatch.setattr(module.ranks, "check_port", lambda *arguments: calls.append(("check_port", *arguments)))
    monkeypatch.setattr(module.ranks, "start_scheduler", lambda code, environ: calls.append((code, environ["MS_ROLE"])))
    return calls, environ


def test_without_a_launcher_there_are_no_ranks(found):
    with pytest.raises(UserError, match="no launcher started this process, so there are no ranks to join; start"):
        module._find_ranks(2, {})


def test_ranks_of_msrun_meet_beside_the_scheduler(found):
    calls, environ = found
    environ |= {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "4", "MS_SCHED_HOST": "192.0.2.1", "MS_SCHED_PORT": "12345",
                "RANK_ID": "3", "MS_TOPO_TIMEOUT": "30"}
    module._find_ranks(4, {"lr": 0.1})
    assert calls == [("meet", "192.0.2.1", 12346, 3, 4, 30.0, {"lr": 0.1})]
    assert int(environ["MS_NODE_TIMEOUT"]) > 24 * 3600  # MindSpore waits for late ranks
    with pytest.raises(UserError, match="--device_num says 2 ranks, the launcher started 4"):
        module._find_ranks(2, {})
    environ |= {"MS_ROLE": "MS_SCHED"}
    module._find_ranks(2, {})  # the scheduler meets nobody
    assert len(calls) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_of_mpirun_starts_the_scheduler(found, rank):
    calls, environ = found
    environ |= {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "MASTER_PORT": "12345"}
    module._find_ranks(2, {})
    first = [("check_port", "127.0.0.1", 12345),
             ("from src.backend import serve; serve()", "MS_WORKER")] if rank == 0 else []
    assert calls == [*first, ("meet", "127.0.0.1", 12346, rank, 2, 120.0, {})]
    assert environ["MS_ROLE"] == "MS_WORKER"


def test_ranks_of_a_rank_table_are_met_by_hccl(found):
    calls, environ = found
    environ |= {"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "1", "RANK_SIZE": "8"}
    assert module._find_ranks(8, {}) is None
    assert calls == []


@pytest.mark.parametrize(("world_size", "variables", "parent", "threads"), [
    (1, {}, 8, 8), (2, {}, 8, 4), (16, {"LOCAL_WORLD_SIZE": "4"}, 8, 2), (16, {}, 8, 1),
    (4, {}, 32, 8),  # bound by the launcher, which may use 32 cores, to 8 of its own
    (2, {"OMP_NUM_THREADS": "3"}, 8, 3)])
def test_ranks_share_the_cores_of_their_machine(found, monkeypatch, world_size, variables, parent, threads):
    asked = []
    found[1].pop("OMP_NUM_THREADS", None)
    found[1].update(variables)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(parent if pid else 8)))
    monkeypatch.setattr(module, "use_cpu_kernels", lambda count: asked.append(count) or False)
    assert module._share_cores(world_size) is False
    assert asked == [threads]


@pytest.mark.parametrize(("target", "overrides", "expected"), [
    ("CPU", [], ("O0", "off")),
    ("CPU", ["loss_scaling=fixed"], ("O0", "fixed")),
    ("CPU", ["amp_level=bf16"], ("bf16", "off")),
    ("Ascend", [], ("O2", "dynamic")),
    ("Ascend", ["amp_level=bf16"], ("bf16", "off")),
    ("GPU", ["amp_level=O3", "loss_scaling=fixed"], ("O3", "fixed")),
    ("GPU", ["amp_level=O0"], ("O0", "off")),
])
def test_precision(recorded, target, overrides, expected):
    backend = create_backend(target, recipe=load_recipe(overrides=overrides))
    assert (backend.amp_level, backend.loss_scaling) == expected


def test_half_precision_is_refused_on_cpu():
    with pytest.raises(UserError, match="found 'O2', expected on CPU auto or one of O0, bf16"):
        create_backend("CPU", recipe=load_recipe(overrides=["amp_level=O2"]))
    with pytest.raises(UserError, match="found 'bf16', expected on GPU auto or one of O0, O2, O3"):
        module._resolve_precision("GPU", load_recipe(overrides=["amp_level=bf16"]))


def test_base_learning_rate_by_device():
    recipe = load_recipe(overrides=["lr=0.25", "lr_ascend=0.5"])
    assert [base_learning_rate(Backend(d), recipe) for d in ("CPU", "GPU", "Ascend")] == [0.25, 0.25, 0.5]


def test_execution_is_eager_or_by_graphs_and_graph_kernels_need_both_device_and_graphs(monkeypatch):
    said = []
    monkeypatch.setattr(ms, "set_context", lambda **settings: said.append(settings))
    module.set_execution("CPU", eager=True)
    module.set_execution("CPU")
    module.set_execution("Ascend", graph_kernels=True)
    graph = {"mode": ms.GRAPH_MODE}
    assert said == [{"mode": ms.PYNATIVE_MODE}, graph, graph, {"jit_config": {"jit_level": "O1"}}]
    for target, eager in (("CPU", False), ("Ascend", True)):
        with pytest.raises(UserError, match=f"found {target}, {'eager' if eager else 'graph'} mode"):
            module.set_execution(target, eager, graph_kernels=True)
