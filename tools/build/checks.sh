# shellcheck shell=bash
# Checks of the command line and of the host, before anything is made. Sourced by build.sh.

suites() {
    grep -v '^#' "$top/tools/suites"
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
    [ -n "$suffix" ] || die "unknown suite $suite; tools/suites has: $known"
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
    [ -n "$of" ] || die "--run: version $version of $deb belongs to no suite of tools/suites"
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
