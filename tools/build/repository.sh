# shellcheck shell=bash
# A signed apt repository of what is in dist/ (--repository, --bundle). Sourced by build.sh.

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
        # Of the same build; it needs nothing of Debian that the other does not.
        node=${deb/"/${package}_"/"/$package-node_"}
        [ -e "$node" ] || node=
        [ -z "$bundle" ] || fetch_dependencies
        say "signing $dir for $suite"
        "$top/tools/make-repository" "$dir" "${suite#*:}" "$key" "$(public_url)" "$valid_for" "$deb" ${node:+"$node"} "${with[@]}" </dev/null || exit 1
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
    step "reading package lists" enter "$work/root" "" "$work/out" tools/build-in-root fetch /out
    rm "$work/out/${deb##*/}"
    with=("$work"/out/*.deb)
}
