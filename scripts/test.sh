#!/usr/bin/env bash
# Check everything: ruff, mypy on src/, shellcheck (through pytest) and all tests. Makes .venv where there is none.
# Arguments are handed to pytest: bash scripts/test.sh -k geometry
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

cd "$REPO"
ensure_venv requirements.txt requirements-dev.txt
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
check pytest python -m pytest "$@"
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
