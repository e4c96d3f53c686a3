# Machines that have nothing, for ci/fresh and ci/wheels, which source this: minimal roots of Debian, made by debootstrap.
# shellcheck shell=bash
#
# A root is a machine for its processes: file system, processes, /dev/shm and users are its own, the network is this host's.
# Wants root, debootstrap and util-linux. What is downloaded stays in ~/.cache/dsmem-fresh.
# DSMEM_FRESH_MIRROR: the archive, http://deb.debian.org/debian by default. Handed in: the variables of proxies and of pip's
# index, and the certificates that $PIP_CERT names.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dsmem-fresh
mirror=${DSMEM_FRESH_MIRROR:-http://deb.debian.org/debian}
certificates=/etc/dsmem-fresh.crt # in a root; not where its own package of certificates writes
work=$(mktemp -d "${TMPDIR:-/tmp}/dsmem-roots.XXXXXX")
making=  # a root that is not in its place yet
running= # the job that uses a machine: in a condition set -e would not hold, so it is a job and waited for

finish() {
    if [ -n "$running" ]; then
        pkill -KILL -P "$running" || true # unshare, and with it all processes of the machine
        wait "$running" || true
    fi
    rm -rf --one-file-system "$work" ${making:+"$making"}
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

can_make_roots() {
    if [ "$(id -u)" != 0 ]; then
        echo "making a root takes root"
    elif ! command -v debootstrap >/dev/null; then
        echo "debootstrap is missing; run: apt-get install -y debootstrap"
    else
        return 0
    fi
    return 1
}

# The release as the archive has it, made once: beside its place, and moved there whole.
archive_root() { # release
    [ ! -d "$cache/$1" ] || return 0
    mkdir -p "$cache"
    making=$(mktemp -d "$cache/new.XXXXXX")
    echo "making a root of $1 from $mirror: a few minutes" >&2
    chmod 755 "$making"
    if ! debootstrap --variant=minbase "$1" "$making" "$mirror" >"$cache/debootstrap-$1.log" 2>&1; then
        tail -n 20 "$cache/debootstrap-$1.log" >&2
        return 1
    fi
    mv -T "$making" "$cache/$1"
    making=
}

home_of() { # user
    [ "$1" = root ] && echo /root || echo "/home/$1"
}

# Apt takes a lock on the packages that all machines share, and does not wait for it.
take_turn() {
    mkdir -p "$cache"
    exec {turn}>"$cache/turn"
    flock -n "$turn" && return
    echo "another run uses $cache: waiting" >&2
    flock "$turn"
}

# A new machine with one more user, 'stranger', without rights.
new_machine() { # release root
    archive_root "$1"
    mkdir -p "$2"
    cp -a "$cache/$1/." "$2"
    cp /etc/resolv.conf "$2/etc/resolv.conf"
    echo force-unsafe-io >"$2/etc/dpkg/dpkg.cfg.d/fresh" # nothing of it outlives a crash
    [ -z "${PIP_CERT:-}" ] || cp -L "$PIP_CERT" "$2$certificates"
    chroot "$2" useradd --create-home --shell /bin/bash stranger
    local user
    for user in root stranger; do
        mkdir -p "$cache/archives/partial" "$cache/pip-$user"
        mkdir -p "$2$(home_of $user)/.cache/pip"
        chroot "$2" chown -R "$user:" "$(home_of $user)/.cache"
    done
    chown "$(stat -c %u:%g "$2/home/stranger")" "$cache/pip-stranger"
}

# Nothing that the command leaves running outlives it. Unlike chroot, pivot_root leaves a user the right to make namespaces.
enter() { # root user command…
    unshare --mount --pid --fork --kill-child --uts --ipc sh -euc '
        root=$1 cache=$2 user=$3 home=$4
        shift 4
        mount --bind "$root" "$root"
        cd "$root"
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t tmpfs -o mode=755 dev dev
        for node in null zero full random urandom tty; do
            touch dev/$node
            mount --bind /dev/$node dev/$node
        done
        mkdir -p dev/pts dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        mount -t tmpfs -o mode=1777 shm dev/shm
        mount -t tmpfs -o mode=1777 tmp tmp
        mount --bind "$cache/archives" var/cache/apt/archives
        mount --bind "$cache/pip-$user" ".$home/.cache/pip"
        mkdir old
        pivot_root . old
        umount -l old
        rmdir old
        exec "$@"' sh "$1" "$cache" "$2" "$(home_of "$2")" "${@:3}"
}

# A shell of the user's, in the home folder, with nothing of this environment but how to reach package indexes.
as() { # root user command
    local pass=()
    mapfile -t pass < <(env | grep -iE '^(PIP_(INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT)|https?_proxy|no_proxy)=' || true)
    [ -z "${PIP_CERT:-}" ] || pass+=("PIP_CERT=$certificates")
    enter "$1" "$2" env -i "${pass[@]}" HOME="$(home_of "$2")" USER="$2" LANG=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin setpriv --reuid "$2" --regid "$2" --init-groups \
        bash -euc "cd; $3" </dev/null
}
