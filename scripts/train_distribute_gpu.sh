#!/usr/bin/env bash
# Train on several GPUs with mpirun; DEVICE_LIST such as 0,1,2,3. With HOSTFILE, on all nodes that it lists.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_distribute_gpu.log
read_arguments train.py "$log" "DEVICE_NUM DEVICE_LIST DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
use_python
need mpirun "install Open MPI (on Debian: apt-get install openmpi-bin)"
check_port
export CUDA_VISIBLE_DEVICES=${ARG[DEVICE_LIST]}
nodes=1
hosts=(-n "${ARG[DEVICE_NUM]}" --oversubscribe)
if [[ -n ${HOSTFILE:-} ]]; then
    [[ -f $HOSTFILE ]] || fail "HOSTFILE '$HOSTFILE' is no file; expected one host a line, as mpirun --hostfile"
    read -ra names < <(awk '!/^[[:space:]]*(#|$)/ {printf "%s ", $1}' "$HOSTFILE") || true
    nodes=${#names[@]}
    ((nodes)) || fail "HOSTFILE '$HOSTFILE' names no host"
    MASTER_ADDR=${MASTER_ADDR:-${names[0]}}
    export MASTER_ADDR
    hosts=(-n $((ARG[DEVICE_NUM] * nodes)) --hostfile "$HOSTFILE" --map-by "ppr:${ARG[DEVICE_NUM]}:node")
    hosts+=(-x MASTER_PORT)  # which run_ranks.py sets where it is not given
    for name in PATH CUDA_VISIBLE_DEVICES MASTER_ADDR MS_TOPO_TIMEOUT LD_LIBRARY_PATH OMP_NUM_THREADS; do
        [[ -z ${!name:-} ]] || hosts+=(-x "$name")
    done
fi
distributed_arguments GPU "$nodes"
# The ranks share out the cores themselves.
run_ranks "$log" log_output mpirun --allow-run-as-root "${hosts[@]}" --bind-to none "$PYTHON" "${TRAIN[@]}"
