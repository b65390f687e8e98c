# shellcheck shell=bash
# Roots made by mmdebstrap, and builds in them (--engine root). Sourced by build.sh.

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

# make_root KIND: a root in the cache (variable `root`), the base with what `build-in-root KIND` installs. It is made anew
# when that function changes or, for build dependencies, debian/control.
make_root() {
    local kind=$1 key
    key=$({
        sed -n "/^install_$kind()/,/^}/p" "$top/tools/build-in-root"
        [ "$kind" = machine ] || cat "$top/debian/control"
    } | sha256sum | cut -c 1-12)
    root=$cache/root-$kind-${suite/:/-}-$week-$key
    [ ! -d "$root" ] || return 0
    make_base
    rm -rf --one-file-system "$cache/root-$kind-${suite/:/-}"-*
    step "unpacking the minimal root" unpack "$base" "$work/new-root"
    step "completing the root" enter "$work/new-root" "" "" tools/build-in-root "$kind"
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
    step "building in a root" enter "$work/root" "$root" "$work/out" tools/build-in-root build "$suite" /out
}
