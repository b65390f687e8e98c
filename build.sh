#!/bin/bash
# Runs on the host, as root: builds the package into dist/ and, if asked, boots it. `./build.sh --help` lists the options.
# The half that runs inside the build root is debian/build-in-root; debian/run-machine boots. See docs/building.md.
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

usage() {
    cat <<'END'
Usage: ./build.sh [SUITE] [OPTION]...

Builds the package for SUITE (default: debian:trixie; debian/suites lists all) into dist/.

  --extras LIST   Python extras to ship: default, none, or names from setup.py joined by commas
  --engine NAME   docker, podman, buildah or root (a root made by mmdebstrap); default: the first that works
  --run [DEB]     boot DEB in a disposable machine with a demo account; without DEB build first if needed
  --repository DIR  put the packages in dist/ into a signed apt repository in DIR; with SUITE that one alone
  --bundle DIR    the same for SUITE, with all that it needs of Debian: for machines without a network
      --key KEY         sign with this key of gpg's keyring; default: a key of its own, made once
      --url URL         where DIR/public will be found; default: DIR itself (--bundle: /srv/jupyterhub)
      --valid-for DAYS  apt is to mistrust the repository unless it is made anew within DAYS
  --update        write the locks (requirements.txt, npm/) anew instead of building
  --help          show this text
END
}

# ---- messages and steps ----------------------------------------------------------------------------------------------

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
    elif grep -q 'No space left on device' "$log"; then
        hint="no space left on the disk: make room, or set XDG_CACHE_HOME to a folder on another disk"
    fi
    [[ $hint != *download* ]] || hint+=" (git diff shows whether the lock was edited; ./build.sh --update writes it anew)"
    die "$title failed: $hint; full log: $log"
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

# ---- checks ----------------------------------------------------------------------------------------------------------

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

suites() {
    grep -v '^#' "$top/debian/suites"
}

check_input() {
    local known
    [[ -z $engine || " $engines " == *" $engine "* ]] || die "unknown engine $engine; there are: $engines"
    [[ $extras =~ ^[a-z0-9,_-]*$ ]] || die "--extras '$extras' is not a list of names joined by commas"
    # Told by select-requirements itself; where the host has no Python the build tells it, some minutes later.
    [ -z "$extras" ] || ! command -v python3 >/dev/null || "$top/debian/select-requirements" "$extras" >/dev/null || exit 1
    [ -z "$deb" ] || check_deb
    [ -z "$repository$bundle$key$url$valid_for" ] || check_repository
    suite=${suite:-debian:trixie}
    known=$(suites | awk '{ printf "%s%s", sep, $1; sep = ", " }')
    suffix=$(suites | awk -v suite="$suite" '$1 == suite { print $2 }')
    [ -n "$suffix" ] || die "unknown suite $suite; debian/suites has: $known"
    [ "$(id -u)" = 0 ] || die "must run as root (it makes root filesystems and mounts): sudo ./build.sh ..."
    [ "$run" = no ] || check_ports
    mkdir -p "$cache"
    [ "$(df --output=avail -k "$cache" | tail -n 1)" -ge $((need_gb * 1024 * 1024)) ] ||
        die "less than $need_gb GB free in $cache: make room, or set XDG_CACHE_HOME to a folder on another disk"
}

# A given .deb decides which suite it is run on.
check_deb() {
    local version of
    [ -f "$deb" ] || die "--run: there is no file $deb"
    [ "$(dpkg-deb -f "$deb" Package 2>/dev/null)" = $package ] || die "--run: $deb is no .deb of $package"
    deb=$(readlink -f "$deb")
    version=$(dpkg-deb -f "$deb" Version)
    of=$(suites | awk -v suffix="+${version##*+}" '$2 == suffix { print $1 }')
    [ -n "$of" ] || die "--run: version $version of $deb belongs to no suite of debian/suites"
    [ "${suite:-$of}" = "$of" ] || die "--run: $deb was built for $of, not for $suite"
    suite=$of
}

check_repository() {
    [ -z "$repository" ] || [ -z "$bundle" ] || die "--repository and --bundle are two commands: give one of them"
    [ -n "$repository$bundle" ] || die "--key, --url and --valid-for belong to --repository or --bundle"
    [ "$run$extras" = no ] || die "--repository and --bundle take what is in dist/: no --run or --extras with them"
    [[ $url =~ ^((https?|file)(:/[^[:space:]]+))?$ ]] || die "--url $url is not of the form http://..., https://... or file:/..."
    [[ $valid_for =~ ^([1-9][0-9]{0,3})?$ ]] || die "--valid-for $valid_for is not a number of days"
    asked=$suite
}

# The machine shares the host's network: the proxy's port and the hub's.
check_ports() {
    local port
    for port in 8000 8081; do
        ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null ||
            die "--run: port $port is taken on 127.0.0.1: stop what listens there (ss -ltnp 'sport = :$port')"
    done
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

# ---- what goes into a build root -------------------------------------------------------------------------------------

# The names of all source files, NUL-terminated: what git tracks or would track, and a site's own requirements.
sources() {
    cd "$top"
    {
        if ! git -c safe.directory="$top" ls-files -z --cached --others --exclude-standard 2>/dev/null; then
            find . -path ./.git -prune -o -path ./dist -prune -o ! -type d -printf '%P\0'
        fi
        printf 'requirements.local.txt\0'
    } | sort -zu | while IFS= read -r -d '' name; do
        [ ! -e "$name" ] && [ ! -L "$name" ] || printf '%s\0' "$name"
    done
}

# A copy of the sources that does not depend on the clone's modes, owners and times (those are the changelog's).
copy_sources() {
    local date
    date=$(sed -n 's/^ -- .*>  //p; T; q' "$top/debian/changelog")
    mkdir -p "$work/source"
    sources | tar -C "$top" --null --no-recursion -T - --owner=0 --group=0 --mode=u+rwX,go=rX --mtime="${date:-2026-01-01}" -c |
        tar -C "$work/source" -x
}

# The host's settings, as one tar file that build-in-root unpacks into memory.
pack_settings() {
    local dir=$work/settings file
    mkdir -m 755 "$dir"
    for file in "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        [ -s "$file" ] || continue
        cp "$file" "$dir/ca.crt"
        chmod 644 "$dir/ca.crt"
        break
    done
    (umask 077 && host_environment >"$dir/environment" && host_npmrc >"$dir/npmrc")
    apt-config dump 2>/dev/null | grep -E '^Acquire::https?::Proxy(::[^ ]+)? ' >"$dir/apt.conf" || true
    (umask 077 && tar -C "$dir" -cf "$work/host.tar" .)
}

host_environment() {
    local name file
    # pip's settings in the environment win over those in its files, so they come last.
    for name in index_url extra_index_url proxy trusted_host; do
        for file in /etc/pip.conf ~/.pip/pip.conf ~/.config/pip/pip.conf "${PIP_CONFIG_FILE-}"; do
            [ ! -f "$file" ] || pip_setting "$name" "$file"
        done
    done
    for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_PROXY PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_RETRIES \
        {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY {npm_config,NPM_CONFIG}_{REGISTRY,registry} \
        $(host_npmrc | grep -oE '\$\{[A-Za-z_][A-Za-z0-9_]*\}' | tr -d '\173\175$'); do
        [ -z "${!name-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
}

# pip_setting NAME FILE: a setting of pip.conf as an export line. Folders of this host mean nothing inside the root.
pip_setting() {
    local key=${1//_/[-_]} values
    values=$(awk -v key="^${key}[ \t]*[=:]" '
        $0 ~ key { on = 1; sub(/^[^=:]*[=:]/, ""); print; next }
        /^[ \t]+[^ \t]/ { if (on) print; next }
        { on = 0 }' "$2" | tr -s ' \t\n' '\n' | grep -vE '^(file:|/|$)' | paste -sd ' ') || true
    [ -z "$values" ] || printf 'export PIP_%s=%q\n' "${1^^}" "$values"
}

# Registries, their credentials and proxies; not what names paths or programs of this host.
host_npmrc() {
    local file
    for file in /etc/npmrc ~/.npmrc; do
        [ ! -f "$file" ] ||
            grep -E '^[ \t]*(registry|@[^:=]+:registry|//[^=]+|(https?-)?proxy|noproxy|strict-ssl)[ \t]*=' "$file" || true
    done
}

# ---- roots made by mmdebstrap ----------------------------------------------------------------------------------------

# The suite's minimal root as a tar file.
make_base() {
    local distribution=${suite%%:*} codename=${suite#*:} mirrors components=main
    base=$cache/base-${suite/:/-}-$week.tar
    [ ! -s "$base" ] || return 0
    need mmdebstrap mmdebstrap
    case $distribution in
    debian) need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring ;;
    ubuntu)
        need /usr/share/keyrings/ubuntu-archive-keyring.gpg ubuntu-keyring
        components=main,universe
        ;;
    esac
    rm -f "$cache/base-${suite/:/-}"-*.tar
    mirrors=$(host_mirrors "$distribution" "$codename" "${components/,/ }")
    step "making a minimal root of $suite" mmdebstrap --variant=minbase --include=apt --aptopt='Acquire::Languages "none"' \
        --components="$components" "$codename" "$work/base.tar" ${mirrors:+"$mirrors"}
    mv "$work/base.tar" "$base"
}

# The sources.list lines for mirrors this host uses for the distribution; nothing means mmdebstrap's defaults.
host_mirrors() {
    local distribution=$1 codename=$2 components=$3 main security
    main=$(host_mirror "${distribution^}")
    security=$(host_mirror Debian-Security)
    [ "$distribution" = debian ] || security=$main
    [ -n "$main" ] && [ -n "$security" ] || return 0
    printf 'deb %s %s %s\n' "$main" "$codename" "$components" "$main" "$codename-updates" "$components" \
        "$security" "$codename-security" "$components"
}

# host_mirror LABEL: the first address from which this host's apt takes what bears the label.
host_mirror() {
    # shellcheck disable=SC2016 # apt's variables
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
        awk -v label="$1" '$1 == label && $2 ~ /^https?:/ && !seen++ { print $2 }'
}

# make_root KIND: a root in the cache (variable `root`), the base with what `build-in-root KIND` installs. It is made anew
# when that function changes or, for build dependencies, debian/control.
make_root() {
    local kind=$1 key
    key=$({
        sed -n "/^install_$kind()/,/^}/p" "$top/debian/build-in-root"
        [ "$kind" = machine ] || cat "$top/debian/control"
    } | sha256sum | cut -c 1-12)
    root=$cache/root-$kind-${suite/:/-}-$week-$key
    [ ! -d "$root" ] || return 0
    make_base
    rm -rf --one-file-system "$cache/root-$kind-${suite/:/-}"-*
    step "unpacking the minimal root" unpack "$base" "$work/new-root"
    step "completing the root" enter "$work/new-root" "" "" debian/build-in-root "$kind"
    rm -rf "$work/new-root/build"
    mv "$work/new-root" "$root"
}

unpack() {
    mkdir -p "$2" && tar -C "$2" --numeric-owner -xpf "$1"
}

# enter ROOT LOWER OUT COMMAND...: run a command in a root, in the sources' folder. With LOWER, ROOT is a view of that
# folder whose changes are thrown away. Mounts and processes are in namespaces of their own, so they vanish with it.
# Downloads are cached in /cache; the folder OUT, if any, is /out.
enter() {
    export work cache package EXTRA_REQUIREMENTS=${extras:-default}
    mkdir -p "$cache/downloads"
    unshare --mount --pid --fork --kill-child --propagation private -- \
        bash -euc "$(declare -f in_namespace); in_namespace \"\$@\"" in_namespace "$@"
}

in_namespace() {
    local root=$1 lower=$2 out=$3
    shift 3
    if [ -n "$lower" ]; then
        mkdir -p "$root" "$work/upper" "$work/overlay"
        # Volatile: nothing waits for the disk. Where the kernel refuses an overlay, a copy does.
        mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay,volatile" "$root" ||
            cp -a --reflink=auto "$lower/." "$root/"
    fi
    mkdir -p "$root/build" "$root/cache" "$root/out"
    rm -rf "$root/build/$package"
    cp -a "$work/source" "$root/build/$package"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount --bind "$cache/downloads" "$root/cache"
    # /run is memory, so that nothing of the host's settings can stay in the root.
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mkdir -p "$root/run/lock"
    cp "$work/host.tar" "$root/run/host.tar"
    [ -z "$out" ] || mount --bind "$out" "$root/out"
    rm -f "$root/etc/resolv.conf"
    [ ! -e /etc/resolv.conf ] || cat /etc/resolv.conf >"$root/etc/resolv.conf"
    # shellcheck disable=SC2016 # $@ is the inner shell's
    exec chroot "$root" /usr/bin/env -i EXTRA_REQUIREMENTS="$EXTRA_REQUIREMENTS" \
        /bin/sh -c "cd /build/$package"' && exec "$@"' sh "$@"
}

build_in_root() {
    make_root deps
    step "building in a root" enter "$work/root" "$root" "$work/out" debian/build-in-root build "$suite" /out
}

# ---- images ----------------------------------------------------------------------------------------------------------

# engine_build ARGUMENT...: build an image. Our own Dockerfile is no stranger that must be locked in: `chroot` isolation
# also works where the kernel's limits forbid containers.
engine_build() {
    case $engine in
    docker) DOCKER_BUILDKIT=1 docker build --progress=plain --network=host "$@" ;;
    podman) podman build --layers --isolation=chroot --network=host "$@" ;;
    buildah) buildah bud --layers --force-rm --isolation=chroot --network=host "$@" ;;
    esac
}

# Find a base image (variable `image`): the suite's own, or one made from an mmdebstrap root if no registry answers.
find_image() {
    local made=localhost/debianized-jupyterhub-base:${suite/:/-}-$week name
    for image in "$suite" "$made"; do
        [ -z "$("$engine" images -q "$image" 2>/dev/null)" ] || return 0
    done
    image=$suite
    try_step "pulling the image $suite" timeout 600 "$engine" pull -q "$suite" && return
    make_base
    image=$made
    step "making an image of it" import_image "$base" "$image"
}

import_image() {
    local container
    if [ "$engine" = buildah ]; then
        container=$(buildah from scratch) && buildah add "$container" "$1" / &&
            buildah commit "$container" "$2" && buildah rm "$container"
    else
        "$engine" import "$1" "$2"
    fi
}

# Does the engine run a command in an image? Only that tells.
probe_engine() {
    local id
    mkdir -p "$work/empty"
    printf 'FROM %s\nRUN true\n' "$image" >"$work/Dockerfile.probe"
    id=$(engine_build --no-cache -q -f "$work/Dockerfile.probe" "$work/empty") && "$engine" rmi -f "$id"
}

engine_works() {
    engine=$1
    command -v "$engine" >/dev/null && timeout 30 "$engine" info >>"$log" 2>&1 || return 1
    find_image
    try_step "checking that $engine runs" probe_engine
}

choose_engine() {
    local wanted
    case $engine in
    '')
        for wanted in docker podman buildah; do
            ! engine_works "$wanted" || return 0
        done
        engine=root
        ;;
    root) ;;
    *)
        command -v "$engine" >/dev/null || die "engine $engine is not installed (try --engine root, which needs none)"
        engine_works "$engine" || die "engine $engine does not work here (try --engine root): $(tail -n 1 "$log")"
        ;;
    esac
}

# The working containers of image builds (not containers that run), one id per line.
working_containers() {
    podman ps -a --external --format '{{.ID}} {{.Status}}' | awk '$2 == "Storage" { print $1 }' | sort
}

# An interrupted podman leaves its working containers, mounted.
drop_containers() {
    comm -13 <(echo "$before") <(working_containers) | xargs -r podman rm -f >/dev/null
}

build_in_image() {
    [ "$engine" != podman ] || before=$({ echo none; working_containers; } | sort)
    local options=(-f "$work/source/Dockerfile.build" --secret "id=host,src=$work/host.tar" --build-arg "BASE=$image"
        --build-arg "SUITE=$suite" --build-arg "EXTRAS=${extras:-default}" --build-arg "REFRESH=$week")
    # The tag keeps the build dependencies for the next build; everything else that has our label is dropped below.
    step "making an image with the build dependencies" engine_build "${options[@]}" --target deps \
        -t "localhost/debianized-jupyterhub-deps:${suite/:/-}" "$work/source"
    step "building in an image" engine_build "${options[@]}" -o "type=local,dest=$work/out" "$work/source"
    drop_images >>"$log" 2>&1 || true
}

drop_images() {
    # shellcheck disable=SC2046 # ids have no spaces
    "$engine" rmi -f $("$engine" images -q -a --filter label=debianized-jupyterhub --filter dangling=true)
}

# ---- build and run ---------------------------------------------------------------------------------------------------

# dist/ changes only when everything is there, and then by renaming.
publish() {
    local pattern
    for pattern in .deb .changes .buildinfo; do
        compgen -G "$work/out/${package}_*$suffix*$pattern" >/dev/null || die "the build left no $pattern; full log: $log"
    done
    mkdir -p "$top/dist"
    incoming=$(mktemp -d "$top/dist/.incoming.XXXXXX")
    cp "$work/out"/* "$incoming/"
    cp "$log" "$incoming/$(basename "$work/out/$package"_*"$suffix"*.changes .changes).build"
    rm -f "$top/dist/$package"*_*"$suffix"_*
    mv "$incoming"/* "$top/dist/"
    chown -R --reference="$top" "$top/dist"
    rm -rf "$incoming"
    find_deb
}

find_deb() {
    deb=$(find "$top/dist" -maxdepth 1 -name "${package}_*${suffix}_*.deb" 2>/dev/null | head -n 1)
}

# Is the .deb in dist/ younger than all that goes into it?
deb_is_current() {
    local name
    find_deb
    [ -n "$deb" ] && [ -z "$extras" ] || return 1
    while IFS= read -r -d '' name; do
        case $name in docs/* | tests/* | *.md) continue ;; esac
        [ ! "$top/$name" -nt "$deb" ] || return 1
    done < <(sources)
}

# Put what is in dist/ into a signed repository.
make_repository() {
    local dir made='' for=$asked with=()
    dir=$(realpath -m "$repository$bundle")
    [ -z "$bundle" ] || for=$suite
    need aptly aptly
    need gpg gnupg
    while read -r suite suffix _; do
        [ "${for:-$suite}" = "$suite" ] || continue
        find_deb
        [ -n "$deb" ] || continue
        [ -z "$bundle" ] || fetch_dependencies
        say "signing $dir for $suite"
        "$top/debian/make-repository" "$dir" "${suite#*:}" "$key" "$(public_url)" "$valid_for" "$deb" "${with[@]}" </dev/null || exit 1
        say "done: $dir/public/jupyterhub-${suite#*:}.sources is what a machine needs"
        made=yes
    done < <(suites)
    [ -n "$made" ] || die "dist/ has no package${for:+ for $for}: build it first (./build.sh${for:+ $for})"
}

public_url() {
    if [ -n "$url" ]; then echo "$url"; elif [ -n "$bundle" ]; then echo file:/srv/jupyterhub; else echo "file:$dir/public"; fi
}

# The .deb files of Debian that the one in dist/ needs (array `with`).
fetch_dependencies() {
    make_base
    mkdir -p "$work/out"
    cp "$deb" "$work/out/"
    step "unpacking the minimal root" unpack "$base" "$work/root"
    step "reading package lists" enter "$work/root" "" "$work/out" debian/build-in-root fetch /out
    rm "$work/out/${deb##*/}"
    with=("$work"/out/*.deb)
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
    if [ "$update" = yes ]; then exec "$top/debian/update-locks"; fi
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

    copy_sources
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
        exec "$top/debian/run-machine" "$root" "$deb" "$cache/run.$$" "$cache/downloads"
    fi
}

main "$@"
