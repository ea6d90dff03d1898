# shellcheck shell=bash
# What the launchers share: arguments, checks, choice of Python, and starting a run with its log.
#
# Environment:
#   FOREGROUND=1   run in the foreground; the launcher's exit code is then the run's
#   PYTHON         interpreter to use (default: see use_python)
#   MASTER_PORT    port where the ranks meet; the next one has to be free too (default: two free ones)
#   MASTER_ADDR    address of the machine of rank 0, for several nodes (default: this machine only)
#   NODE_NUM       number of nodes that msrun starts, DEVICE_NUM ranks each (default: 1)
#   NODE_RANK      which of them this one is, 0 to NODE_NUM - 1; node 0 is the one of MASTER_ADDR (default: 0)
#   HOSTFILE       Open MPI's list of nodes for train_distribute_gpu.sh, DEVICE_NUM ranks each
#   MS_TOPO_TIMEOUT  seconds that the ranks wait for each other at the start (default: 120)

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A ARG=()  # positional arguments by name
OPTIONS=()         # everything from the first --OPTION on, handed to the Python script
DEVICES=()         # device ids in rank order, from RANK_TABLE_FILE
NO_TABLE='^(-|msrun)$'  # in place of a RANK_TABLE_FILE: go without one, by msrun

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# usage TARGET_SCRIPT LOG NAME...
usage() {
    local target=$1 log=$2
    shift 2
    echo "Usage: bash scripts/$(basename "$0") $* [--OPTION VALUE ...]"
    echo "  Options after the positional arguments are handed to $target."
    [[ -z $log ]] || echo "  Runs in the background and logs to ./$log; FOREGROUND=1 keeps it in the foreground."
}

# read_arguments TARGET_SCRIPT LOG "NAME ... [NAME]" ARGUMENT...: fill ARG and OPTIONS, or print the usage and exit 1.
# A last NAME in brackets may be left out.
read_arguments() {
    local target=$1 log=$2 names name
    read -ra names <<<"$3"
    shift 3
    local values=()
    while (($#)) && [[ $1 != --* && $1 != -h ]]; do
        values+=("$1")
        shift
    done
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        usage "$target" "$log" "${names[@]}"
        exit 0
    fi
    local most=${#names[@]} least=${#names[@]}
    [[ ${names[-1]} != \[* ]] || least=$((most - 1))
    if ((${#values[@]} < least || ${#values[@]} > most)); then
        echo "error: found ${#values[@]} arguments, expected $least$( ((least == most)) || echo " or $most")" >&2
        usage "$target" "$log" "${names[@]}" >&2
        exit 1
    fi
    OPTIONS=("$@")
    local i
    for i in "${!values[@]}"; do
        name=${names[i]//[\[\]]/}
        check_value "$name" "${values[i]}"
        case $name in
            RANK_TABLE_FILE)
                ARG[$name]=
                [[ ${values[i]} =~ $NO_TABLE ]] || ARG[$name]=$(realpath -ms -- "${values[i]}")
                ;;
            *_PATH | *_FILE) ARG[$name]=$(realpath -ms -- "${values[i]}") ;;
            *) ARG[$name]=${values[i]} ;;
        esac
    done
    [[ -z ${ARG[DEVICE_LIST]:-} ]] || check_device_list
    [[ -z ${ARG[RANK_TABLE_FILE]:-} ]] || read_rank_table
}

# check_value NAME VALUE
check_value() {
    case $1 in
        DEVICE_ID) [[ $2 =~ ^(0|[1-9][0-9]*)$ ]] || fail "DEVICE_ID is '$2', expected a device number such as 0" ;;
        DEVICE_NUM) [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "DEVICE_NUM is '$2', expected a whole number of 1 or more" ;;
        DEVICE_LIST)
            [[ $2 =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "DEVICE_LIST is '$2', expected device numbers such as 0,1,2,3"
            ;;
        DATA_PATH) [[ -d $2 ]] || fail "DATA_PATH '$2' is no folder; expected the one of the data set" ;;
        CKPT_PATH | MINDIR_PATH | *SPLIT_FILE_PATH | RANK_TABLE_FILE)
            [[ -f $2 || ($1 == RANK_TABLE_FILE && $2 =~ $NO_TABLE) ]] ||
                fail "$1 '$2' is no file; check the path (relative paths start at $PWD)"
            ;;
    esac
}

check_device_list() {
    local devices repeated
    IFS=, read -ra devices <<<"${ARG[DEVICE_LIST]}"
    ((${#devices[@]} == ARG[DEVICE_NUM])) ||
        fail "DEVICE_NUM is ${ARG[DEVICE_NUM]}, but DEVICE_LIST '${ARG[DEVICE_LIST]}' names ${#devices[@]} devices"
    repeated=$(printf '%s\n' "${devices[@]}" | sort -n | uniq -d | paste -sd,)
    [[ -z $repeated ]] || fail "DEVICE_LIST '${ARG[DEVICE_LIST]}' names device $repeated more than once"
}

# Fill DEVICES from an hccl.json of one server. Read with the shell's own tools: its device objects are flat.
read_rank_table() {
    local table=${ARG[RANK_TABLE_FILE]} text entry device rank repeated found=0
    text=$(tr -d '[:space:]' <"$table")
    [[ $text == '{'*'"server_list":['*']'*'}' ]] ||
        fail "RANK_TABLE_FILE '$table' is no whole rank table (JSON object with server_list); make it with hccl_tools"
    while read -r entry; do
        found=$((found + 1))
        device=$(grep -oE '"device_id":"?[0-9]+' <<<"$entry" | grep -oE '[0-9]+$' || true)
        rank=$(grep -oE '"rank_id":"?[0-9]+' <<<"$entry" | grep -oE '[0-9]+$' || true)
        [[ -z $device || -z $rank ]] || DEVICES[rank]=$device
    done < <(grep -oE '\{[^{}]*"device_id"[^{}]*\}' <<<"$text")
    (($(grep -o '"server_id":' <<<"$text" | wc -l) < 2)) ||
        fail "RANK_TABLE_FILE '$table' is that of several servers; give - in its place and NODE_NUM, NODE_RANK, MASTER_ADDR, MASTER_PORT on each"
    ((found == ARG[DEVICE_NUM])) ||
        fail "DEVICE_NUM is ${ARG[DEVICE_NUM]}, but RANK_TABLE_FILE '$table' lists $found devices"
    [[ ${!DEVICES[*]} == "$(seq -s ' ' 0 $((ARG[DEVICE_NUM] - 1)))" ]] ||
        fail "RANK_TABLE_FILE '$table' has the rank_ids '${!DEVICES[*]}', expected each of 0 to $((ARG[DEVICE_NUM] - 1)) once"
    repeated=$(printf '%s\n' "${DEVICES[@]}" | sort -n | uniq -d | paste -sd,)
    [[ -z $repeated ]] || fail "RANK_TABLE_FILE '$table' lists device $repeated more than once"
}

# Set PYTHON. In this order: $PYTHON; the python3 on PATH; but where that is the system's own and the repository
# has a .venv, the one in .venv. An activated environment therefore always wins over .venv.
use_python() {
    local present
    if [[ -n ${PYTHON:-} ]]; then
        present=$(command -v -- "$PYTHON") || fail "PYTHON is '$PYTHON', which cannot be run"
        # msrun and mpirun start python3 by name.
        [[ $PYTHON != */* ]] || PATH=$(realpath -s -- "$(dirname -- "$present")"):$PATH
        return
    fi
    present=$(command -v python3 || true)
    case $present in
        "" | /bin/* | /usr/bin/* | /usr/local/bin/* | */shims/python3)
            [[ ! -x $REPO/.venv/bin/python3 ]] || PATH=$REPO/.venv/bin:$PATH
            ;;
    esac
    PYTHON=python3
    need python3 "install Python 3.11, or run bash scripts/quickstart.sh, which makes .venv"
}

# need COMMAND REMEDY
need() {
    command -v -- "$1" >/dev/null || fail "$1 was not found on PATH; $2"
}

# run_logged LOG COMMAND...: background with the pid printed, or foreground with the command's exit code.
run_logged() {
    local log=$1
    shift
    if [[ ${FOREGROUND:-0} == 1 ]]; then
        exec "$@" > >(exec tee -i -- "$log") 2>&1  # exec, so that a signal to the launcher reaches the run
    fi
    (
        trap '' HUP  # as under nohup
        exec "$@"  # so that the printed pid is the run itself and `kill PID` ends it
    ) >"$log" 2>&1 </dev/null &
    echo "started in the background: pid $!, log $PWD/$log"
}

# train_standalone DEVICE_TARGET LOG
train_standalone() {
    use_python
    run_logged "$2" "$PYTHON" "$REPO/train.py" --device_target "$1" --device_id "${ARG[DEVICE_ID]}" \
        --run_distribute 0 --device_num 1 --data_path "${ARG[DATA_PATH]}" \
        --train_split_file_path "${ARG[TRAIN_SPLIT_FILE_PATH]}" "${OPTIONS[@]}"
}

# evaluate DEVICE_TARGET LOG
evaluate() {
    use_python
    run_logged "$2" "$PYTHON" "$REPO/eval.py" --device_target "$1" --dev_id "${ARG[DEVICE_ID]}" \
        --ckpt_path "${ARG[CKPT_PATH]}" --data_path "${ARG[DATA_PATH]}" \
        --eval_split_file_path "${ARG[EVAL_SPLIT_FILE_PATH]}" "${OPTIONS[@]}"
}

# distributed_arguments DEVICE_TARGET NODES: set TRAIN to train.py and its arguments for one rank of several.
distributed_arguments() {
    # The ranks must agree on the run folder, and train.py's default name has the time of each rank's start in it.
    if ! [[ " ${OPTIONS[*]}" =~ \ --(run_dir|resume)(=| |$) ]]; then
        (($2 == 1)) || fail "several nodes need --run_dir (or --resume): all of them have to name the same folder"
        OPTIONS+=(--run_dir "runs/distribute-$(date +%Y%m%d-%H%M%S)")
    fi
    # shellcheck disable=SC2034  # read by the launchers
    TRAIN=("$REPO/train.py" --device_target "$1" --run_distribute 1 --device_num "$((ARG[DEVICE_NUM] * $2))"
        --data_path "${ARG[DATA_PATH]}" --train_split_file_path "${ARG[TRAIN_SPLIT_FILE_PATH]}" "${OPTIONS[@]}")
}

# run_ranks LOG LOG_DIR ARGUMENT...: scripts/run_ranks.py, which ends all ranks when one fails.
run_ranks() {
    local log=$1 log_dir=$2
    shift 2
    run_logged "$log" "$PYTHON" "$REPO/scripts/run_ranks.py" --log_dir "$log_dir" "$@"
}

# train_by_msrun DEVICE_TARGET LOG LOG_DIR: DEVICE_NUM ranks on this machine, of NODE_NUM machines.
train_by_msrun() {
    local nodes=${NODE_NUM:-1} node=${NODE_RANK:-0} address=${MASTER_ADDR:-127.0.0.1} listen=()
    need msrun "it comes with MindSpore: activate the environment that has it, or run bash scripts/quickstart.sh"
    [[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NODE_NUM is '$nodes', expected a whole number of 1 or more"
    [[ $node =~ ^(0|[1-9][0-9]{0,5})$ && $node -lt $nodes ]] ||
        fail "NODE_RANK is '$node', expected 0 to $((nodes - 1)), as NODE_NUM is $nodes"
    ((nodes == 1)) || [[ -n ${MASTER_ADDR:-} && -n ${MASTER_PORT:-} ]] ||
        fail "NODE_NUM is $nodes: set MASTER_ADDR (address of node 0) and MASTER_PORT, the same on all nodes"
    distributed_arguments "$1" "$nodes"
    check_port
    ((node)) || listen=(--listen "$address")
    export LOCAL_WORLD_SIZE=${ARG[DEVICE_NUM]}
    run_ranks "$2" "$3" "${listen[@]}" msrun --worker_num="$((ARG[DEVICE_NUM] * nodes))" \
        --local_worker_num="${ARG[DEVICE_NUM]}" --node_rank="$node" --master_addr="$address" --master_port="{port}" \
        --cluster_time_out="${MS_TOPO_TIMEOUT:-120}" --join=True python3 "${TRAIN[@]}"
}

# Check the form of MASTER_PORT and MS_TOPO_TIMEOUT where they are given; run_ranks.py sees whether the port is free.
check_port() {
    local port=${MASTER_PORT:-1024}
    [[ ${MS_TOPO_TIMEOUT:-120} =~ ^[1-9][0-9]*$ ]] ||
        fail "MS_TOPO_TIMEOUT is '$MS_TOPO_TIMEOUT', expected a whole number of seconds such as 120"
    [[ $port =~ ^[1-9][0-9]{3,4}$ && $port -ge 1024 && $port -lt 65535 ]] ||
        fail "MASTER_PORT is '$MASTER_PORT', expected a port from 1024 to 65534"
}
