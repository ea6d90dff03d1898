"""The launch scripts, with stand-ins for python3, mpirun and msrun on PATH."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.conftest import BASH, REPO, Workplace, rank_table, write_program

STANDALONE = ("0", "my data", "my split.csv")
EVALUATION = ("3", "best model.ckpt", "my data", "my split.csv")
LAUNCHERS = {
    "train_standalone.sh": STANDALONE,
    "train_standalone_gpu.sh": STANDALONE,
    "train_standalone_cpu.sh": STANDALONE,
    "train_distribute.sh": ("hccl.json", "2", "my data", "my split.csv"),
    "train_distribute_gpu.sh": ("2", "0,1", "my data", "my split.csv"),
    "train_distribute_cpu.sh": ("2", "my data", "my split.csv"),
    "eval.sh": EVALUATION,
    "eval_gpu.sh": EVALUATION,
    "eval_cpu.sh": EVALUATION,
    "create_csv.sh": ("out put", "1"),
}
IN_BACKGROUND = [name for name in LAUNCHERS if name != "create_csv.sh"]


def options(argv: list[str]) -> dict[str, str]:
    """The `--name value` pairs of a command that ends in them."""
    start = next(i for i, item in enumerate(argv) if item.endswith(".py")) + 1
    return dict(zip(argv[start::2], argv[start + 1::2], strict=True))


def inputs(workplace: Workplace, split: str = "--train_split_file_path") -> dict[str, str]:
    return {"--data_path": str(workplace.folder / "my data"), split: str(workplace.folder / "my split.csv")}


@pytest.mark.parametrize(("script", "target"), [("train_standalone.sh", "Ascend"), ("train_standalone_gpu.sh", "GPU"),
                                                ("train_standalone_cpu.sh", "CPU")])
def test_standalone_training_command(workplace: Workplace, script: str, target: str) -> None:
    done = workplace.run(script, "3", *STANDALONE[1:], "--set", "lr=0.1", FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    (call,) = workplace.calls()
    assert call["program"] == "python3"
    assert call["argv"][0] == str(REPO / "train.py")
    assert call["cwd"] == str(workplace.folder)
    assert options(call["argv"]) == {"--device_target": target, "--device_id": "3", "--run_distribute": "0",
                                     "--device_num": "1", "--set": "lr=0.1", **inputs(workplace)}


@pytest.mark.parametrize(("script", "target"), [("eval.sh", "Ascend"), ("eval_gpu.sh", "GPU"), ("eval_cpu.sh", "CPU")])
def test_evaluation_command(workplace: Workplace, script: str, target: str) -> None:
    done = workplace.run(script, *EVALUATION, FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    (call,) = workplace.calls()
    assert call["argv"][0] == str(REPO / "eval.py")
    assert options(call["argv"]) == {"--device_target": target, "--dev_id": "3",
                                     "--ckpt_path": str(workplace.folder / "best model.ckpt"),
                                     **inputs(workplace, "--eval_split_file_path")}


def test_gpu_distribution_goes_through_mpirun(workplace: Workplace) -> None:
    done = workplace.run("train_distribute_gpu.sh", "3", "0,2,5", "my data", "my split.csv", "--run_dir", "a run",
                         FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    (call,) = workplace.calls()
    assert call["program"] == "mpirun"
    start = call["argv"].index("python3")
    assert call["argv"][:start] == ["--tag-output", "--output-filename", "log_output", "--allow-run-as-root", "-n", "3",
                                    "--oversubscribe", "--bind-to", "none"]
    assert call["argv"][start + 1] == str(REPO / "train.py")
    assert call["env"]["CUDA_VISIBLE_DEVICES"] == "0,2,5"
    assert options(call["argv"]) == {"--device_target": "GPU", "--run_distribute": "1", "--device_num": "3",
                                     "--run_dir": "a run", **inputs(workplace)}


def test_gpu_distribution_over_the_nodes_of_a_hostfile(workplace: Workplace) -> None:
    (workplace.folder / "hosts").write_text("# ours\nnode1 slots=8\n\nnode2\n")
    arguments = ("2", "0,1", "my data", "my split.csv")
    done = workplace.run("train_distribute_gpu.sh", *arguments, HOSTFILE="hosts", FOREGROUND="1")
    assert done.returncode == 1
    assert "several nodes need --run_dir" in done.stderr
    done = workplace.run("train_distribute_gpu.sh", *arguments, "--run_dir", "/shared/run", HOSTFILE="hosts",
                         MASTER_PORT="12345", FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    (call,) = workplace.calls()
    text = " ".join(call["argv"])
    assert ("-n 4 --hostfile hosts --map-by ppr:2:node -x MASTER_PORT -x PATH -x CUDA_VISIBLE_DEVICES "
            "-x MASTER_ADDR") in text
    assert (call["env"]["MASTER_ADDR"], call["env"]["MASTER_PORT"]) == ("node1", "12345")
    workplace.run("train_distribute_gpu.sh", *arguments, "--run_dir", "/shared/run", HOSTFILE="hosts", FOREGROUND="1")
    assert 10000 <= int(workplace.calls()[-1]["env"]["MASTER_PORT"]) < 30000
    assert options(call["argv"])["--device_num"] == "4"


def msrun_options(argv: list[str]) -> dict[str, str]:
    return dict(item[2:].split("=", 1) for item in argv[:argv.index("python3")])


def test_cpu_distribution_goes_through_msrun_on_a_free_port(workplace: Workplace) -> None:
    done = workplace.run("train_distribute_cpu.sh", "2", "my data", "my split.csv", FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    (call,) = workplace.calls()
    assert call["program"] == "msrun"
    started = msrun_options(call["argv"])
    assert 10000 <= int(started.pop("master_port")) < 30000
    assert started == {"worker_num": "2", "local_worker_num": "2", "node_rank": "0", "master_addr": "127.0.0.1",
                       "cluster_time_out": "120", "join": "True", "tail_worker_log": "-2",
                       "log_dir": "log_distribute_cpu"}
    given = options(call["argv"])
    assert given.pop("--run_dir").startswith("runs/distribute-")  # one folder for all ranks
    assert given == {"--device_target": "CPU", "--run_distribute": "1", "--device_num": "2", **inputs(workplace)}


@pytest.mark.parametrize(("script", "table", "target"), [("train_distribute_cpu.sh", (), "CPU"),
                                                         ("train_distribute.sh", ("-",), "Ascend"),
                                                         ("train_distribute.sh", ("msrun",), "Ascend")])
def test_several_nodes_through_msrun(workplace: Workplace, script: str, table: tuple[str, ...], target: str) -> None:
    done = workplace.run(script, *table, "4", "my data", "my split.csv", "--run_dir", "a run", FOREGROUND="1",
                         NODE_NUM="3", NODE_RANK="2", MASTER_ADDR="192.0.2.1", MASTER_PORT="12345",
                         MS_TOPO_TIMEOUT="30")
    assert done.returncode == 0, done.stderr
    (call,) = workplace.calls()
    started = msrun_options(call["argv"])
    assert {name: started[name] for name in ("worker_num", "local_worker_num", "node_rank", "master_addr",
                                             "master_port", "cluster_time_out")} == {
        "worker_num": "12", "local_worker_num": "4", "node_rank": "2", "master_addr": "192.0.2.1",
        "master_port": "12345", "cluster_time_out": "30"}
    assert call["env"]["LOCAL_WORLD_SIZE"] == "4"
    assert options(call["argv"]) == {"--device_target": target, "--run_distribute": "1", "--device_num": "12",
                                     "--run_dir": "a run", **inputs(workplace)}


@pytest.mark.parametrize(("environment", "message"), [
    ({"NODE_NUM": "2"}, "NODE_NUM is 2: set MASTER_ADDR (address of node 0) and MASTER_PORT"),
    ({"NODE_NUM": "2", "NODE_RANK": "2"}, "NODE_RANK is '2', expected 0 to 1"),
    ({"NODE_NUM": "two"}, "NODE_NUM is 'two'"),
    ({"NODE_NUM": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "12345"}, "several nodes need --run_dir"),
    ({"MASTER_PORT": "80"}, "MASTER_PORT is '80', expected a port from 1024 to 65534"),
    ({"MS_TOPO_TIMEOUT": "abc"}, "MS_TOPO_TIMEOUT is 'abc', expected a whole number of seconds such as 120")])
def test_bad_nodes_are_refused(workplace: Workplace, environment: dict[str, str], message: str) -> None:
    done = workplace.run("train_distribute_cpu.sh", "2", "my data", "my split.csv", **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert workplace.calls() == []


def test_a_busy_port_is_refused_before_anything_starts(workplace: Workplace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = workplace.run("train_distribute_cpu.sh", "2", "my data", "my split.csv", MASTER_PORT=str(port),
                             FOREGROUND="1")
    assert done.returncode == 2
    assert f"error: rank 0 cannot listen at 127.0.0.1:{port} (Address already in use); set MASTER_PORT" in done.stdout
    assert workplace.calls() == []


def test_ascend_distribution_starts_a_process_per_device(workplace: Workplace) -> None:
    done = workplace.run("train_distribute.sh", "hccl 4.json", "2", "my data", "my split.csv", "--resume", "a run",
                         FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    calls = sorted(workplace.calls(), key=lambda call: call["env"]["RANK_ID"])
    table = str(workplace.folder / "hccl 4.json")
    assert [call["env"] for call in calls] == [
        {"RANK_ID": "0", "RANK_SIZE": "2", "DEVICE_ID": "4", "RANK_TABLE_FILE": table},
        {"RANK_ID": "1", "RANK_SIZE": "2", "DEVICE_ID": "6", "RANK_TABLE_FILE": table}]
    for call in calls:
        assert options(call["argv"]) == {"--device_target": "Ascend", "--run_distribute": "1", "--device_num": "2",
                                         "--resume": "a run", "--device_id": call["env"]["DEVICE_ID"],
                                         **inputs(workplace)}
    assert (workplace.folder / "train_distribute.log").read_text() == "stand-in python3 rank 0\n"
    assert (workplace.folder / "log_distribute/rank_1.log").read_text() == "stand-in python3 rank 1\n"


def test_create_csv_command(workplace: Workplace) -> None:
    assert workplace.run("create_csv.sh", "out put", "1", "--seed", "7").returncode == 0
    (call,) = workplace.calls()
    assert call["argv"] == [str(REPO / "scripts/create_csv.py"), str(workplace.folder / "out put"), "1", "--seed", "7"]


@pytest.mark.parametrize("script", LAUNCHERS)
def test_wrong_count_prints_usage_and_exits_1(workplace: Workplace, script: str) -> None:
    arguments = LAUNCHERS[script]
    for wrong in ((), arguments[:-1], (*arguments, "surplus"), (*arguments[:-1], "--seed", "1")):
        done = workplace.run(script, *wrong)
        assert done.returncode == 1
        assert f"Usage: bash scripts/{script} " in done.stderr
    assert workplace.calls() == []
    assert workplace.run(script, "--help").returncode == 0


@pytest.mark.parametrize(("script", "arguments", "message"), [
    ("train_standalone.sh", ("x", "my data", "my split.csv"), "DEVICE_ID is 'x'"),
    ("train_standalone.sh", ("0", "no data", "my split.csv"), "DATA_PATH 'no data' is no folder"),
    ("train_standalone.sh", ("0", "my data", "no.csv"), "TRAIN_SPLIT_FILE_PATH 'no.csv' is no file"),
    ("eval_cpu.sh", ("0", "no.ckpt", "my data", "my split.csv"), "CKPT_PATH 'no.ckpt' is no file"),
    ("eval_cpu.sh", ("0", "best model.ckpt", "my data", "no.csv"), "EVAL_SPLIT_FILE_PATH 'no.csv' is no file"),
    ("train_distribute_cpu.sh", ("0", "my data", "my split.csv"), "DEVICE_NUM is '0'"),
    ("train_distribute_cpu.sh", ("two", "my data", "my split.csv"), "DEVICE_NUM is 'two'"),
    ("train_distribute_gpu.sh", ("3", "0,1", "my data", "my split.csv"), "is 3, but DEVICE_LIST '0,1' names 2"),
    ("train_distribute_gpu.sh", ("1", "0,1", "my data", "my split.csv"), "is 1, but DEVICE_LIST '0,1' names 2"),
    ("train_distribute_gpu.sh", ("3", "0,1,1", "my data", "my split.csv"), "names device 1 more than once"),
    ("train_distribute_gpu.sh", ("2", "0, 1", "my data", "my split.csv"), "DEVICE_LIST is '0, 1'"),
    ("train_distribute.sh", ("no.json", "2", "my data", "my split.csv"), "RANK_TABLE_FILE 'no.json' is no file"),
    ("train_distribute.sh", ("hccl.json", "8", "my data", "my split.csv"), "DEVICE_NUM is 8, but RANK_TABLE_FILE"),
    ("create_csv.sh", ("out", "2"), "RANDOM is '2'"),
])
def test_bad_arguments_are_refused(workplace: Workplace, script: str, arguments: tuple[str, ...],
                                   message: str) -> None:
    done = workplace.run(script, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert workplace.calls() == []


@pytest.mark.parametrize(("content", "message"), [
    (rank_table([0, 1])[:-20], "no whole rank table"),
    ("not json", "no whole rank table"),
    (rank_table({0: 0, 2: 1}), "has the rank_ids '0 2', expected each of 0 to 1 once"),
    (rank_table([3, 3]), "lists device 3 more than once"),
    (rank_table([0], [0]), "is that of several servers; give - in its place and NODE_NUM, NODE_RANK"),
])
def test_bad_rank_tables_are_refused(workplace: Workplace, content: str, message: str) -> None:
    (workplace.folder / "bad.json").write_text(content)
    done = workplace.run("train_distribute.sh", "bad.json", "2", "my data", "my split.csv")
    assert done.returncode == 1
    assert message in done.stderr
    assert workplace.calls() == []


@pytest.mark.parametrize("script", LAUNCHERS)
def test_failure_shows_in_the_foreground_exit_code(workplace: Workplace, script: str) -> None:
    done = workplace.run(script, *LAUNCHERS[script], FOREGROUND="1", STAND_IN_EXIT="7")
    assert done.returncode == 7


def test_one_failing_rank_ends_the_others(workplace: Workplace) -> None:
    done = workplace.run("train_distribute.sh", "hccl.json", "2", "my data", "my split.csv", FOREGROUND="1",
                         STAND_IN_FAILING_RANK="1", STAND_IN_EXIT="9")
    assert done.returncode == 9
    assert ("error: rank 1 ended with exit code 9, so all ranks are ended; "
            "its log: log_distribute/rank_1.log") in done.stdout


@pytest.mark.parametrize("script", IN_BACKGROUND)
def test_background_run_writes_the_named_log(workplace: Workplace, script: str,
                                             wait_until: Callable[[Callable[[], bool]], None]) -> None:
    done = workplace.run(script, *LAUNCHERS[script], STAND_IN_EXIT="7")
    assert done.returncode == 0
    log = workplace.folder / f"{script.removesuffix('.sh')}.log"
    assert f"log {log}" in done.stdout
    wait_until(lambda: "stand-in" in log.read_text())


def test_the_printed_pid_ends_the_whole_run(workplace: Workplace,
                                            wait_until: Callable[[Callable[[], bool]], None]) -> None:
    done = workplace.run("train_distribute.sh", *LAUNCHERS["train_distribute.sh"], STAND_IN_FAILING_RANK="none")
    wait_until(lambda: len(workplace.calls()) == 2)
    os.kill(int(done.stdout.split("pid ")[1].split(",")[0]), signal.SIGTERM)
    wait_until(lambda: not any(Path(f"/proc/{call['pid']}").exists() for call in workplace.calls()))


def test_python_is_chosen_by_variable_then_path_then_venv(workplace: Workplace, tmp_path: Path) -> None:
    """The python3 on PATH wins over .venv, unless it is the system's own; $PYTHON wins over both."""
    repository = tmp_path / "clone"
    shutil.copytree(REPO / "scripts", repository / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    names = {"variable": tmp_path / "other" / "python3.11", "venv": repository / ".venv/bin/python3"}
    for name, path in names.items():
        write_program(path, f"#!{BASH}\necho this is {name}\n")

    def output(**environment: str) -> str:
        command = [BASH, str(repository / "scripts/train_standalone_cpu.sh"), *STANDALONE]
        return subprocess.run(command, cwd=workplace.folder, check=True, capture_output=True, text=True,
                              env={**workplace.environment, "FOREGROUND": "1", **environment}).stdout

    assert "stand-in python3" in output()
    assert "this is variable" in output(PYTHON=str(names["variable"]))
    assert "this is venv" in output(PATH="/usr/bin:/bin")


def test_missing_mpirun_is_named(workplace: Workplace, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "basename", "realpath", "sort", "uniq", "paste", "python3"):
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / name).symlink_to(shutil.which(name) or "")
    done = workplace.run("train_distribute_gpu.sh", *LAUNCHERS["train_distribute_gpu.sh"], PATH=str(tmp_path / "few"))
    assert done.returncode == 1
    assert "mpirun was not found on PATH; install Open MPI" in done.stderr


def test_scripts_pass_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; bash scripts/test.sh brings it")
    scripts = [*sorted((REPO / "scripts").glob("*.sh")), REPO / ".ci/run"]
    done = subprocess.run(["shellcheck", "-x", *map(str, scripts)], cwd=REPO, check=False, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout
