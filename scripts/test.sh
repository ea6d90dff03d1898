#!/usr/bin/env bash
# Check everything: ruff, mypy on src/, shellcheck (through pytest) and all tests. Makes .venv where there is none.
# Arguments are handed to pytest: bash scripts/test.sh -k geometry
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

cd "$REPO"
ensure_venv requirements.txt requirements-dev.txt requirements-cpp.txt requirements-serve.txt
failed=()

# check NAME COMMAND...: all checks run, so that one start shows everything.
check() {
    local name=$1
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

check ruff ruff check .
check mypy mypy
# Two tests at a time: most of them wait for MindSpore's compiler, which has one thread. The kernels' threads must not
# spin then: they would take the other test's core. Tests of a file stay together, since they share what they made.
export OMP_WAIT_POLICY=passive
check pytest python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
