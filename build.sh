#!/bin/bash
# Runs on the host, as root: builds the package into dist/ and, if asked, boots it. `./build.sh --help` lists the options.
# The half that runs inside the build root is tools/build-in-root; tools/run-machine boots. See docs/building.md.
set -euo pipefail
umask 022

# The host's own tools, not what a language manager has put in front of them.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
top=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/debianized-jupyterhub
package=jupyterhub
engines="docker podman buildah root"
need_gb=6
# Roots and images are made anew each week, so that they hold current packages.
week=$(date +%G-%V)

# shellcheck source=tools/build/steps.sh
. "$top/tools/build/steps.sh"
# shellcheck source=tools/build/checks.sh
. "$top/tools/build/checks.sh"
# shellcheck source=tools/build/sources.sh
. "$top/tools/build/sources.sh"
# shellcheck source=tools/build/host-settings.sh
. "$top/tools/build/host-settings.sh"
# shellcheck source=tools/build/roots.sh
. "$top/tools/build/roots.sh"
# shellcheck source=tools/build/images.sh
. "$top/tools/build/images.sh"
# shellcheck source=tools/build/dist.sh
. "$top/tools/build/dist.sh"
# shellcheck source=tools/build/repository.sh
. "$top/tools/build/repository.sh"

usage() {
    cat <<'END'
Usage: ./build.sh [SUITE] [OPTION]...

Builds the package for SUITE (default: debian:trixie; tools/suites lists all) into dist/.

  --extras LIST   Python extras to ship: default, none, or names from setup.py joined by commas
  --engine NAME   docker, podman, buildah or root (a root made by mmdebstrap); default: the first that works
  --run [DEB]     boot DEB in a disposable machine with a demo account; without DEB build first if needed
  --repository DIR  put the packages in dist/ into a signed apt repository in DIR; with SUITE that one alone
  --bundle DIR    the same for SUITE, with all that it needs of Debian: for machines without a network
      --key KEY         sign with this key of gpg's keyring; default: a key of its own, made once
      --url URL         where DIR/public will be found; default: DIR itself (--bundle: /srv/jupyterhub)
      --valid-for DAYS  apt is to mistrust the repository unless it is made anew within DAYS
  --update        write the locks (requirements.txt, npm/, src/environments/uv.txt) anew instead of building
  --help          show this text
END
}

parse() {
    suite='' extras='' engine='' run=no deb='' update=no repository='' bundle='' key='' url='' valid_for=''
    local name
    while [ $# -gt 0 ]; do
        case $1 in
        --help | -h)
            usage
            exit
            ;;
        --extras | --engine | --repository | --bundle | --key | --url | --valid-for)
            [ -n "${2-}" ] || die "$1 needs a value (see ./build.sh --help)"
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift
            ;;
        --run)
            run=yes
            case ${2-} in
            '' | -* | debian:* | ubuntu:*) ;;
            *)
                deb=$2
                shift
                ;;
            esac
            ;;
        --update) update=yes ;;
        -*) die "unknown option $1 (see ./build.sh --help)" ;;
        *)
            [ -z "$deb" ] || [[ $1 != *.deb ]] || die "--run takes one .deb, not two: $deb $1"
            [ -z "$suite" ] || die "more than one suite: $suite $1"
            suite=$1
            ;;
        esac
        shift
    done
}

# Runs at every end, also after Ctrl-C.
clean_up() {
    trap '' INT TERM HUP PIPE
    if [ -n "${job-}" ]; then
        kill -TERM -- "-$job" 2>/dev/null || true
        sleep 1
        kill -KILL -- "-$job" 2>/dev/null || true
        wait "$job" 2>/dev/null || true
    fi
    [ -z "${before-}" ] || drop_containers || true
    [ -z "${work-}" ] || rm -rf --one-file-system "$work"
    [ -z "${incoming-}" ] || rm -rf "$incoming"
}

# What a killed build or machine may have left.
remove_leftovers() {
    local folder
    for folder in "$cache"/work.* "$cache"/run.*; do
        [[ $folder == */run.* ]] && kill -0 "${folder##*.}" 2>/dev/null && continue
        rm -rf --one-file-system "$folder"
    done
}

build() {
    choose_engine
    say "building $package for $suite with engine $engine; full log: $log"
    mkdir -p "$work/out"
    if [ "$engine" = root ]; then build_in_root; else build_in_image; fi
    publish
    say "done: ${deb#"$PWD/"} ($(du -h --apparent-size "$deb" | cut -f 1))"
}

main() {
    parse "$@"
    if [ "$update" = yes ]; then exec "$top/tools/update-locks"; fi
    check_input

    log=$cache/log/${suite/:/-}.log
    mkdir -p "$cache/log"
    # One build at a time shares the cache.
    exec 9>"$cache/lock"
    flock -n 9 || { say "waiting for another build.sh" && flock 9; }
    : >"$log"
    exec 3<"$log"
    trap clean_up EXIT
    trap '[ ! -t 1 ] || echo; echo "build.sh: interrupted" >&2; exit 130' INT TERM HUP
    remove_leftovers
    work=$(mktemp -d "$cache/work.XXXXXX")
    chmod 755 "$work"

    copy_sources "$work/source"
    pack_settings
    if [ -n "$repository$bundle" ]; then
        make_repository
        return
    fi
    if [ "$run" = no ] || { [ -z "$deb" ] && ! deb_is_current; }; then build; fi
    if [ "$run" = yes ]; then
        need systemd-nspawn systemd-container
        make_root machine
        exec 3<&- 9>&-
        export SECONDS
        # The pid stays the same, and so tells later runs whether this folder is in use.
        mv "$work" "$cache/run.$$"
        exec "$top/tools/run-machine" "$root" "$deb" "$cache/run.$$" "$cache/downloads"
    fi
}

main "$@"
