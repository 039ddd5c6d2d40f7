#!/bin/sh
# Turns the subnet file into options for Docker, with the options and the output of flannel's script of
# this name. It is installed beside the daemon.

set -o errexit -o nounset

usage() {
    cat >&2 <<EOF
Usage: $0 [-f FILE] [-d FILE] [-i] [-c] [-m] [-k NAME]

    -f FILE  the subnet file (/run/flannel/subnet.env)
    -d FILE  what to write (/run/docker_opts.env)
    -i       one variable for each option
    -c       one variable with all options; without -i and -c, both
    -k NAME  the name of that variable (DOCKER_OPTS); what it holds already comes first
    -m       leave out --ip-masq
EOF
    exit 1
}

fail() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

subnet_file=/run/flannel/subnet.env
options_file=/run/docker_opts.env
individual=false
combined=false
masquerade=true
name=DOCKER_OPTS

while getopts 'f:d:icmk:h?' option; do
    case ${option} in
        f) subnet_file=${OPTARG} ;;
        d) options_file=${OPTARG} ;;
        i) individual=true ;;
        c) combined=true ;;
        m) masquerade=false ;;
        k) name=${OPTARG} ;;
        *) usage ;;
    esac
done
if [ "${individual}" = false ] && [ "${combined}" = false ]; then
    individual=true
    combined=true
fi
case ${name} in
    '' | [0-9]* | *[!A-Za-z0-9_]*) fail "${name} is no name of a variable" ;;
esac

[ -r "${subnet_file}" ] || fail "${subnet_file} cannot be read. Is the daemon running, and ready?"
# A path without a slash would be looked for in PATH.
case ${subnet_file} in */*) ;; *) subnet_file=./${subnet_file} ;; esac
# shellcheck source=/dev/null
. "${subnet_file}"

bip=
mtu=
ip_masq=
[ -z "${FLANNEL_SUBNET:-}" ] || bip="--bip=${FLANNEL_SUBNET}"
[ -z "${FLANNEL_MTU:-}" ] || mtu="--mtu=${FLANNEL_MTU}"
if [ "${masquerade}" = true ] && [ -n "${FLANNEL_IPMASQ:-}" ]; then
    # One of the two masquerades, not both.
    case ${FLANNEL_IPMASQ} in
        true) ip_masq="--ip-masq=false" ;;
        false) ip_masq="--ip-masq=true" ;;
        *) fail "FLANNEL_IPMASQ is ${FLANNEL_IPMASQ} in ${subnet_file}; it must be true or false" ;;
    esac
fi

eval "all=\${${name}:-}"
: >"${options_file}"
add() {
    [ -n "$2" ] || return 0
    all="${all} $2"
    if [ "${individual}" = true ]; then
        printf '%s="%s"\n' "$1" "$2" >>"${options_file}"
    fi
}
add DOCKER_OPT_BIP "${bip}"
add DOCKER_OPT_IPMASQ "${ip_masq}"
add DOCKER_OPT_MTU "${mtu}"
if [ "${combined}" = true ]; then
    printf '%s="%s"\n' "${name}" "${all}" >>"${options_file}"
fi

# Docker's bridge would be shadowed by it.
if [ -n "${bip}" ] && ip -4 route show exact "${FLANNEL_SUBNET}" | grep -q ' via '; then
    fail "there is a route for ${FLANNEL_SUBNET} through a gateway already; delete it"
fi
