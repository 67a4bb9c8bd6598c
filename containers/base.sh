#!/usr/bin/env bash
# Make a base image from Debian's own packages where no registry answers: `make images BASE=local`.
# Needs root, debootstrap and a Docker engine; 130 MB, about a minute. MIRROR names another Debian mirror.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
tag=${1:?usage: containers/base.sh NAME:TAG}
suite=bookworm # Python 3.11, as in the default base

say() { printf 'base image: %s\n' "$*" >&2; }
[ "$(id -u)" = 0 ] || { say "debootstrap needs root: run it with sudo, or name another base (BASE=...)"; exit 2; }
command -v debootstrap >/dev/null || { say "debootstrap is missing (apt-get install debootstrap)"; exit 2; }

root=$(mktemp -d)
log=$(mktemp)
trap 'rm -rf "$root" "$log"' EXIT

make_root() { # chained by &&: bash forgets `set -e` in a function whose failure is caught
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" ${MIRROR:+"$MIRROR"} &&
    # by apt, because debootstrap resolves no virtual packages and python3.11-venv needs one; C headers: as in the
    # default base, torch.compile includes them
    chroot "$root" apt-get update &&
    chroot "$root" apt-get install --yes --no-install-recommends python3.11-venv libpython3.11-dev &&
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*
}

say "$suite with Python 3.11, a minute or so"
make_root >"$log" 2>&1 || { tail -n 20 "$log" >&2; say "Debian's packages could not be installed"; exit 1; }
tar --create --numeric-owner --directory "$root" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' . |
  "${DOCKER:-docker}" import --change 'CMD ["python3.11"]' - "$tag" >/dev/null
say "made $tag"
