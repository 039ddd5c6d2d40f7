# shellcheck shell=bash
# What scripts/demo and scripts/test share. Sourced, never run.

# Put before a command that needs root. An array and not a function, so that a command started in the
# background is a child of the script itself.
AS_ROOT=()
if [[ ${EUID} -ne 0 ]]; then
    AS_ROOT=(sudo --)
fi

# Ends the script with a sentence.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The directory that cargo builds into.
target_directory() {
    cargo metadata --format-version 1 --no-deps --locked \
        | sed --quiet 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# Programs that building (Rust itself apart) and the lab need, each with its Debian package.
# shellcheck disable=SC2034  # used by the scripts that source this
PROGRAMS=(
    cc=build-essential
    ip=iproute2 tc=iproute2 bridge=iproute2 ss=iproute2 nstat=iproute2
    iperf3=iperf3 sockperf=sockperf ethtool=ethtool nft=nftables iptables=iptables ping=iputils-ping
    # The client of etcd is generated from its protocol's description.
    protoc=protobuf-compiler /usr/include/google/protobuf/descriptor.proto=libprotobuf-dev
)

# Installs the packages of the programs, or files, that are missing. Arguments are PROGRAM=PACKAGE or
# FILE=PACKAGE pairs.
install_missing() {
    local pair missing=()
    for pair in "$@"; do
        # Programs of root are not always on a user's path.
        [[ -e ${pair%%=*} ]] || PATH="${PATH}:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null \
            || missing+=("${pair#*=}")
    done
    if [[ ${#missing[@]} -eq 0 ]]; then
        return 0
    fi
    command -v apt-get >/dev/null || die "please install these packages: ${missing[*]}"
    echo "installing ${missing[*]}"
    "${AS_ROOT[@]}" apt-get update --quiet --quiet
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"
}

# What the packages of Debian's archive are signed with.
# shellcheck disable=SC2034  # used by the scripts that source this
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The archive that this machine gets its packages from.
debian_archive() {
    # shellcheck disable=SC2016  # apt expands it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        | grep --invert-match security | head --lines 1
}

# Has apt_in look at one release: apt_of DIRECTORY deb|deb-src RELEASE
apt_of() {
    local home=$1 archive
    archive=$(debian_archive)
    [[ -n ${archive} ]] || return
    mkdir --parents "${home}/lists/partial" "${home}/cache/archives/partial" || return
    echo "$2 [signed-by=${DEBIAN_KEYRING}] ${archive} $3 main" >"${home}/sources.list"
    apt_in "${home}" apt-get --quiet --quiet update
}

# A program of apt with all its files below a directory, so that the machine's own choice of packages
# stays as it is: apt_in DIRECTORY PROGRAM ARGUMENT...
apt_in() {
    local home=$1 program=$2
    shift 2
    "${program}" --option "Dir::Etc::SourceList=${home}/sources.list" \
        --option Dir::Etc::SourceParts=/dev/null --option "Dir::State::Lists=${home}/lists" \
        --option "Dir::Cache=${home}/cache" --option Acquire::http::Timeout=30 \
        --option APT::Sandbox::User=root --option APT::Update::Post-Invoke-Success::= "$@"
}

# Ends the script unless namespaces and TUN devices can be had.
check_machine() {
    command -v cargo >/dev/null || die "cargo was not found: install Rust from https://rustup.rs"
    if [[ ${EUID} -ne 0 ]]; then
        command -v sudo >/dev/null || die "network namespaces need root: run this as root"
        sudo --validate || die "network namespaces need root, and sudo refused"
    fi
    if [[ ! -c /dev/net/tun ]]; then
        "${AS_ROOT[@]}" modprobe tun || die "/dev/net/tun does not exist and the module tun cannot be loaded"
    fi
}
