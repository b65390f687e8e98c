# shellcheck shell=bash
# Builds in images of docker, podman or buildah. Sourced by build.sh.

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
    [ "$engine" != podman ] || before=$({
        echo none
        working_containers
    } | sort)
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
