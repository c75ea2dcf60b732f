#!/bin/sh
# Makes .venv with exactly what requirements.lock pins plus this package, or returns at once if that is done already.
#
# "Done" is told by content, not by file times: .venv/locked and .venv/ready hold the checksums of what was installed and
# the folder it was installed for. They are written after pip has succeeded, so a half-made .venv is made again.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."

OLDEST=11  # Python 3.11, as in pyproject.toml
NEWEST=14  # torch 2.13.0 has no build for a later one
SMALL_GB=4  # a CPU build of torch: 2 GB installed, and as much again while pip unpacks
CUDA_GB=10  # PyPI's torch for Linux brings the CUDA libraries

die() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

# Sets `reason` to what is wrong with a Python, or to nothing.
examine() {
    reason="$1 does not run"
    seen=$("$1" -c 'import platform, sys; print(*sys.version_info[:2], platform.system(), platform.machine())' 2>/dev/null) || return 0
    # shellcheck disable=SC2086  # four words
    set -- "$1" $seen
    reason="$1 is Python $2.$3"
    [ "$2" = 3 ] && [ "$3" -ge "$OLDEST" ] && [ "$3" -le "$NEWEST" ] || return 0
    reason="$1 is built for Intel Macs, which PyTorch no longer supports"
    [ "$4 $5" != "Darwin x86_64" ] || return 0
    reason="$1 lacks its venv module (Debian, Ubuntu: apt install python$2.$3-venv)"
    "$1" -c 'import ensurepip, venv' 2>/dev/null || return 0
    reason=
}

# Sets `python` to the one asked for in $PYTHON, else to the first good one.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
    fi
    reasons=
    for python in "$@"; do
        command -v "$python" >/dev/null 2>&1 || continue
        examine "$python"
        [ -n "$reason" ] || return 0
        reasons="${reasons:+$reasons; }$reason"
    done
    die "no Python 3.$OLDEST to 3.$NEWEST to work with (${reasons:-$1 is not installed}); \
install or mend one, then run make again, or name one: make PYTHON=/path/to/python3"
}

free_gb() {
    df -Pk . | awk 'NR == 2 {for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) {print int($(i - 1) / 1048576); exit}}'
}

# PyPI's torch for Linux is a CUDA build; another index, or a folder of wheels, may hold a CPU build.
check_space() {
    need=$SMALL_GB
    hint=
    if [ "$(uname -s)" = Linux ] && [ -z "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}" ]; then
        need=$CUDA_GB
        hint=" (or $SMALL_GB GB with the CPU build: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make ...)"
    fi
    free=$(free_gb)
    [ "${free:-$need}" -ge "$need" ] || die "only $free GB of disk are free here and $need GB are needed$hint; free some, then run make again"
    echo "Making .venv with $python (once, a few minutes; $need GB of disk at most)$hint"
}

install_lock() {
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --log .venv/pip.log -r requirements.lock &&
        echo "$locked" >.venv/locked
}

# A dot for each package, and the downloads that take a while; pip's errors go past this, to the terminal.
show_progress() {
    while IFS= read -r line; do
        case $line in
            Collecting* | Processing*) printf . ;;
            *Downloading*[0-9][0-9][0-9].?\ MB* | *Downloading*\ GB*) printf '\n%s\n' "$line" ;;
            "Installing collected packages"*) printf '\ninstalling (a minute or two)\n' ;;
        esac
    done
}

explain_pip() {
    if grep -q -e 'No space left on device' -e 'Disk quota exceeded' .venv/pip.log 2>/dev/null || [ "$(free_gb)" = 0 ]; then
        die "the disk (or the folder for temporary files) is full; free some space or set TMPDIR to a larger disk, then run make again"
    fi
    die "pip could not install requirements.lock (its own message is above); check the network and the proxy, then run make again"
}

locked="$(pwd) $(cksum <requirements.lock)"
ready="$locked $(cksum <pyproject.toml)"

holds() {
    [ "$(cat ".venv/$1" 2>/dev/null)" = "$2" ] && [ -x .venv/bin/python ]
}

holds ready "$ready" && exit 0
if ! holds locked "$locked"; then
    find_python
    rm -rf .venv  # no use any more, and its space may be needed
    check_space
    "$python" -m venv .venv || die "$python could not make .venv (its own message is above); check that this folder can be written to"
    install_lock | show_progress
    holds locked "$locked" || explain_pip
fi
# Without build isolation: the pinned setuptools builds it, and nothing is fetched.
.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e . ||
    die "pip could not install this package (its own message is above); check pyproject.toml"
echo "$ready" >.venv/ready
