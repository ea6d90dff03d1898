# shellcheck shell=bash
# What the launchers share: arguments, checks, choice of Python, and starting a run with its log.
#
# Environment:
#   FOREGROUND=1   run in the foreground; the launcher's exit code is then the run's
#   PYTHON         interpreter to use (default: see use_python)
#   MASTER_PORT    port for train_distribute_cpu.sh's scheduler (default: a free one)

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A ARG=()  # positional arguments by name
OPTIONS=()         # everything from the first --OPTION on, handed to the Python script
DEVICES=()         # device ids in rank order, from RANK_TABLE_FILE

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

# read_arguments TARGET_SCRIPT LOG "NAME ..." ARGUMENT...: fill ARG and OPTIONS, or print the usage and exit 1.
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
    if ((${#values[@]} != ${#names[@]})); then
        echo "error: found ${#values[@]} arguments, expected ${#names[@]}" >&2
        usage "$target" "$log" "${names[@]}" >&2
        exit 1
    fi
    OPTIONS=("$@")
    local i
    for i in "${!names[@]}"; do
        name=${names[i]}
        check_value "$name" "${values[i]}"
        case $name in
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
        DATA_PATH) [[ -d $2 ]] || fail "DATA_PATH '$2' is no folder; expected the one that holds img/ and gt/" ;;
        CKPT_PATH | *_SPLIT_FILE_PATH | RANK_TABLE_FILE)
            [[ -f $2 ]] || fail "$1 '$2' is no file; check the path (relative paths start at $PWD)"
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
    local table=${ARG[RANK_TABLE_FILE]} text entry device rank found=0
    text=$(tr -d '[:space:]' <"$table")
    [[ $text == '{'*'"server_list":['*']'*'}' ]] ||
        fail "RANK_TABLE_FILE '$table' is no whole rank table (JSON object with server_list); make it with hccl_tools"
    while read -r entry; do
        found=$((found + 1))
        device=$(grep -oE '"device_id":"?[0-9]+' <<<"$entry" | grep -oE '[0-9]+$' || true)
        rank=$(grep -oE '"rank_id":"?[0-9]+' <<<"$entry" | grep -oE '[0-9]+$' || true)
        [[ -z $device || -z $rank ]] || DEVICES[rank]=$device
    done < <(grep -oE '\{[^{}]*"device_id"[^{}]*\}' <<<"$text")
    ((found == ARG[DEVICE_NUM])) ||
        fail "DEVICE_NUM is ${ARG[DEVICE_NUM]}, but RANK_TABLE_FILE '$table' lists $found devices"
    [[ ${!DEVICES[*]} == "$(seq -s ' ' 0 $((ARG[DEVICE_NUM] - 1)))" ]] ||
        fail "RANK_TABLE_FILE '$table' has the rank_ids '${!DEVICES[*]}', expected each of 0 to $((ARG[DEVICE_NUM] - 1)) once"
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
# COMMAND may be a function of this file. The background subshell ignores SIGHUP, as under nohup, which takes no functions.
run_logged() {
    local log=$1
    shift
    if [[ ${FOREGROUND:-0} == 1 ]]; then
        "$@" 2>&1 | tee -i -- "$log"
        return
    fi
    (
        trap '' HUP
        # exec, so that the printed pid is the run itself and `kill PID` ends it.
        [[ $(type -t -- "$1") == function ]] || exec "$@"
        "$@"
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

# distributed_arguments DEVICE_TARGET: set TRAIN to train.py and its arguments for one rank of several.
distributed_arguments() {
    # The ranks must agree on the run folder, and train.py's default name has the time of each rank's start in it.
    [[ " ${OPTIONS[*]}" =~ \ --(run_dir|resume)(=| |$) ]] ||
        OPTIONS+=(--run_dir "runs/distribute-$(date +%Y%m%d-%H%M%S)")
    # shellcheck disable=SC2034  # read by the launchers
    TRAIN=("$REPO/train.py" --device_target "$1" --run_distribute 1 --device_num "${ARG[DEVICE_NUM]}"
        --data_path "${ARG[DATA_PATH]}" --train_split_file_path "${ARG[TRAIN_SPLIT_FILE_PATH]}" "${OPTIONS[@]}")
}

# run_ranks COMMAND...: one process per device of DEVICES. Rank 0 writes to stdout, rank N to rank_N/train_distribute.log.
# The first rank that fails ends the others, which would wait for it forever, and gives the exit code.
run_ranks() {
    local -A running=()
    local rank output code=0 status
    trap 'kill "${running[@]}" 2>/dev/null; wait; exit 143' INT TERM
    for rank in "${!DEVICES[@]}"; do
        if ((rank == 0)); then
            exec {output}>&1
        else
            mkdir -p "rank_$rank"
            exec {output}>"rank_$rank/train_distribute.log"
        fi
        RANK_ID=$rank DEVICE_ID=${DEVICES[rank]} "$@" --device_id "${DEVICES[rank]}" >&"$output" 2>&1 &
        running[$rank]=$!
        exec {output}>&-
    done
    while ((${#running[@]})); do
        for rank in "${!running[@]}"; do
            kill -0 "${running[$rank]}" 2>/dev/null && continue
            status=0
            wait "${running[$rank]}" || status=$?
            unset "running[$rank]"
            if ((status != 0 && code == 0)); then
                code=$status
                echo "rank $rank ended with exit code $status; its log: $( ((rank)) && echo "rank_$rank/")train_distribute.log"
                ((${#running[@]} == 0)) || kill "${running[@]}" 2>/dev/null || true
            fi
        done
        ((${#running[@]} == 0)) || sleep 0.3
    done
    return "$code"
}

# run_msrun ARGUMENT...: msrun ends its workers on SIGINT only, leaves them running on SIGTERM, and exits 0 after SIGINT.
run_msrun() {
    local pid
    msrun "$@" &
    pid=$!
    trap 'kill -INT "$pid" 2>/dev/null; wait "$pid"; exit 143' INT TERM
    wait "$pid"
}

# Print a TCP port nobody listens on, below the range that outgoing connections draw from. A taken port would cost
# MindSpore about ten minutes of retries.
free_port() {
    local port
    for _ in {1..50}; do
        port=$((10000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || {
            echo "$port"
            return
        }
    done
    fail "found no free port between 10000 and 29999; set MASTER_PORT"
}
