# Sourced by test.sh and bench.sh, after venv.sh: the programs that pip does not bring, from Debian's packages.

# find_missing PROGRAM:PACKAGE...: sets the arrays `missing` (programs) and `packages` (to install for them).
find_missing() {
    local wanted
    missing=()
    packages=()
    for wanted; do
        if ! PATH=$PATH:/usr/sbin:/sbin command -v "${wanted%%:*}" >/dev/null; then
            missing+=("${wanted%%:*}")
            packages+=("${wanted#*:}")
        fi
    done
}

# install_missing: installs `packages` if there are any and it is possible; otherwise sets `why` to the reason why
# not. Ends the program if apt-get fails.
install_missing() {
    why=
    if [ ${#packages[@]} -eq 0 ]; then
        return
    elif [ "$(id -u)" != 0 ]; then
        why="not root"
    elif ! command -v apt-get >/dev/null; then
        why="no apt-get here"
    else
        say "installing from Debian's packages, no service is started: ${packages[*]}"
        apt_install "${packages[@]}" || fail "apt-get failed; ${1:-install by hand what provides} ${missing[*]}"
        missing=()
    fi
}

apt_install() {
    # Debian starts a service as soon as its package is installed, unless policy-rc.d says 101 (invoke-rc.d(8)).
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        policy= # the administrator has set one, which stays
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends "$@"; } >/dev/null || status=$?
    if [ -n "$policy" ]; then
        rm -f "$policy"
        trap - EXIT
    fi
    return $status
}
