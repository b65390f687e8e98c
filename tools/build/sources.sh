# shellcheck shell=bash
# The files that a package is made from. Sourced by build.sh and tools/newer-source.

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

# copy_sources FOLDER: a copy of the sources that does not depend on the clone's modes, owners and times (those are the changelog's).
copy_sources() {
    local date
    date=$(sed -n 's/^ -- .*>  //p; T; q' "$top/debian/changelog")
    mkdir -p "$1"
    sources | tar -C "$top" --null --no-recursion -T - --owner=0 --group=0 --mode=u+rwX,go=rX --mtime="${date:-2026-01-01}" -c |
        tar -C "$1" -x
}

# newer_source DEB: the first file that is newer than DEB and goes into the package; nothing if there is none.
newer_source() {
    local name
    while IFS= read -r -d '' name; do
        case $name in
        # Documentation is part of the package, what follows is not.
        tests/* | .ci/* | docs/images/* | .git* | .editorconfig | pyproject.toml | CONTRIBUTING.md | SECURITY.md) continue ;;
        tools/run-* | tools/make-repository | tools/update-locks | tools/newer-source | Dockerfile.run) continue ;;
        esac
        [ ! "$top/$name" -nt "$1" ] || { echo "$name" && return; }
    done < <(sources)
}
