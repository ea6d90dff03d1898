# shellcheck shell=bash
# Sourced by quickstart.sh and test.sh: one virtual environment, made and filled once.
#
# Environment:
#   VENV     folder of the virtual environment (default: .venv in the repository)
#   PYTHON   interpreter to make it with (default: the first fitting one of python3.11, python3.12, python3, python)

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$REPO/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# ensure_venv REQUIREMENTS_FILE...: afterwards $VENV/bin/python has what the files of the repository list, and
# $VENV/bin is first on PATH. Starts at the same time wait for one another.
ensure_venv() {
    mkdir -p "$(dirname "$VENV")"
    exec {lock}>"$VENV.lock"
    if command -v flock >/dev/null && ! flock -n "$lock"; then
        echo "waiting for another start that is installing into $VENV"
        flock "$lock"
    fi
    if [[ -e $VENV/.installing ]]; then
        # Files of a package may be missing although pip would call it installed.
        echo "the last install into $VENV was cut short; making it anew"
        remove_venv
    elif [[ -d $VENV ]] && ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "$VENV is incomplete or its Python is gone; making it anew"
        remove_venv
    fi
    [[ -d $VENV ]] || make_venv
    fits "$VENV/bin/python" ||
        fail "$VENV has Python $(version_of "$VENV/bin/python"), expected 3.11 or 3.12; remove it or set VENV to another folder"
    install_requirements "$@"
    exec {lock}>&-
    PATH=$VENV/bin:$PATH
}

# Remove $VENV, but only a folder that make_venv made: VENV may be mistyped.
remove_venv() {
    [[ -e $VENV/.made-by-scripts ]] || [[ -d $VENV && -z $(ls -A "$VENV") ]] ||
        fail "$VENV was not made by these scripts, so they leave it alone; remove it yourself or set VENV to another folder"
    rm -rf -- "$VENV"
}

make_venv() {
    local python
    find_python python
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
    echo "making the virtual environment $VENV with $("$python" --version)"
    mkdir "$VENV"
    touch "$VENV/.made-by-scripts" "$VENV/.installing"
    "$python" -m venv "$VENV"
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# fits PYTHON: whether MindSpore 2.8.0 and the other pinned packages have wheels for it.
fits() {
    [[ $(version_of "$1") =~ ^3\.1[12]$ ]]
}

# find_python NAME: put the first fitting Python into the variable NAME.
find_python() {
    local candidate seen=""
    local candidates=(python3.11 python3.12 python3 python)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        # Asked for its version, since a version manager's shim may stand for a Python that is not installed.
        if fits "$candidate"; then
            printf -v "$1" '%s' "$candidate"
            return
        fi
        seen+="$candidate: $(version_of "$candidate" || echo none), "
    done
    fail "found no Python 3.11 or 3.12, which MindSpore 2.8.0 needs (${seen%, });" \
        "on Debian 12: apt-get install python3 python3-venv; elsewhere set PYTHON to one"
}

# install_requirements FILE...: pip install for the files whose content has changed since they were last installed.
install_requirements() {
    local file changed=no arguments=() quiet=()
    for file in "$@"; do
        [[ $(cat "$VENV/.installed-$file" 2>/dev/null) == "$(content_hash "$file")" ]] || changed=yes
    done
    [[ $changed == yes ]] || return 0
    # All of them, since pip keeps versions consistent only among what it is asked for together.
    for file in "$@"; do
        arguments+=(-r "$REPO/$file")
    done
    [[ -t 1 ]] || quiet=(--quiet)
    echo "installing $* into $VENV (about 2 minutes the first time)"
    touch "$VENV/.installing"
    "$VENV/bin/python" -m pip install --disable-pip-version-check "${quiet[@]}" "${arguments[@]}" || {
        rm -f "$VENV/.installing"
        fail "pip could not install $*; its message is above. Check the network, the package index and that some 5 GB" \
            "are free ($(free_space "$VENV") in $VENV, $(free_space "${TMPDIR:-/tmp}") in ${TMPDIR:-/tmp}), then start again"
    }
    for file in "$@"; do
        content_hash "$file" >"$VENV/.installed-$file"
    done
    rm -f "$VENV/.installing"
}

free_space() {
    df -h "$1" | awk 'NR == 2 { print $4 }'
}

content_hash() {
    sha256sum <"$REPO/$1"
}
