# shellcheck shell=bash
# Messages, and steps whose output goes into the log. Sourced by build.sh.

die() {
    echo "build.sh: $*" >&2
    exit 1
}

say() {
    printf '[%4d s] %s\n' "$SECONDS" "$*"
}

# Read what the running step has added to the log and show its "==> " lines (docker puts a prefix before them).
follow() {
    local line
    while IFS= read -r line <&3 || { partial+=$line && false; }; do
        line=$partial$line
        partial=
        [[ $line =~ ^(#[0-9]+\ [0-9.]+\ )?"==> "(.*) ]] || continue
        [ ! -t 1 ] || printf '\r\033[K'
        title=${BASH_REMATCH[2]}
        say "$title"
        shown=$SECONDS
    done
    [ ! -t 1 ] || printf '\r[%4d s] %s ... %d s\033[K' "$SECONDS" "$title" $((SECONDS - shown))
}

# try_step TITLE COMMAND...: run a command with its output in the log, showing life; returns the command's status.
# The command gets a process group of its own, so that all of it can be ended. Bash switches `set -e` off in here:
# functions that serve as COMMAND join their commands with `&&`.
try_step() {
    local status=0 shown=$SECONDS partial=''
    title=$1
    shift
    say "$title"
    set -m
    (exec 3<&- 9>&- && "$@") >>"$log" 2>&1 </dev/null &
    job=$!
    set +m
    while kill -0 "$job" 2>/dev/null; do
        follow
        sleep 0.5
    done
    follow
    [ ! -t 1 ] || printf '\r\033[K'
    wait "$job" || status=$?
    job=
    return "$status"
}

step() {
    try_step "$@" || fail_step $?
}

fail_step() {
    local hint="status $1" what
    tail -n 20 "$log" >&2
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        what=$(sed -nE '/DO NOT MATCH THE HASHES/ { n; s/^.* ([^ ]+==[^ ]+) from .*/\1/p; q }' "$log")
        hint="the download of ${what:-a package} does not match its hash in requirements.txt"
    elif grep -q EINTEGRITY "$log"; then
        what=$(sed -nE '/EINTEGRITY/,$ s/^.* wanted (sha[0-9]+-.{16}).*/\1/p' "$log" | head -n 1)
        hint="a download does not match its integrity ${what:+$what... }in npm/*/package-lock.json"
    elif grep -q '^debian/patches/.* does not apply$' "$log"; then
        hint=$(grep '^debian/patches/.* does not apply$' "$log" | tail -n 1)
    elif grep -q 'No space left on device' "$log"; then
        hint="no space left on the disk: make room, or set XDG_CACHE_HOME to a folder on another disk"
    fi
    [[ $hint != *download* ]] || hint+=" (git diff shows whether the lock was edited; ./build.sh --update writes it anew)"
    die "$title failed: $hint; full log: $log"
}

# need PATH PACKAGE: install the Debian package that brings a program or file.
need() {
    if [[ $1 == /* ]]; then [ ! -e "$1" ] || return 0; else ! command -v "$1" >/dev/null || return 0; fi
    command -v apt-get >/dev/null || die "$1 is missing and there is no apt-get to install it: install $2 yourself"
    try_step "installing $2 on this host ($1 is missing)" install_tool "$2" ||
        die "$1 is missing and apt-get could not install $2 (full log: $log)"
}

install_tool() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qy install --no-install-recommends "$1" ||
        { apt-get -q update && apt-get -qy install --no-install-recommends "$1"; }
}
