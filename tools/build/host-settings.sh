# shellcheck shell=bash
# The host's certificates, proxies, registries and mirrors, for use in a build root. Sourced by build.sh.

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
