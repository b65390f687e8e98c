# shellcheck shell=bash
# What is in dist/. Sourced by build.sh.

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
    deb=$(find "$top/dist" -maxdepth 1 -name "${package}_*${suffix}_*.deb" -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
}

# Is the .deb in dist/ younger than all that goes into it?
deb_is_current() {
    find_deb
    [ -n "$deb" ] && [ -z "$extras" ] && [ -z "$(newer_source "$deb")" ]
}
