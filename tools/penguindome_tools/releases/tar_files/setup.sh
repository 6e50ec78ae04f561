#!/bin/sh
# Install the PenguinDome client of this archive, upgrade to it, or remove it. It takes Python and GnuPG, and root.
#
#     setup                   install or upgrade; the first time it makes this machine a client of the server that the
#                             archive came from
#     setup --release-only    the same without touching what runs: for the client's own updates, also back to an older one
#     setup --uninstall       remove the programs; settings, keys and reports stay
#
# A release lies in /usr/lib/penguindome/releases/client-NUMBER, and the link /usr/lib/penguindome/client says which one
# is in use. The one before it stays. Interrupted at any point, the old release or the new one is in use, and the same
# command finishes the rest.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# Everything hangs off this root, for tests; none is the machine itself.
root=${PENGUINDOME_ROOT-}
root=${root%/}
home=/usr/lib/penguindome
inside=$home/client
home=$root$home
link=$home/client
releases=$home/releases
list=$releases/installed-files
settings=$root/etc/penguindome
state=$root/var/lib/penguindome/client
logs=$root/var/log/penguindome/client
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)

fail() {
    echo "setup: $*" >&2
    exit 1
}

runs_systemd() {
    [ -z "$root" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null
}

unit_directory() { # where units of packages lie; nothing on a machine without systemd
    for directory in /usr/lib/systemd/system /lib/systemd/system; do
        if [ -d "$root$directory" ]; then
            echo "$directory"
            return
        fi
    done
}

require_system() {
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "this installs programs: run it as root (sudo $0)"
    command -v python3 >/dev/null || fail "Python is missing: install python3, 3.10 or newer"
    python3 -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "this Python is too old: install python3, 3.10 or newer"
    python3 -I -c 'import venv' 2>/dev/null || fail "the module venv of Python is missing: install the package that has it (python3-venv)"
    command -v gpg >/dev/null || fail "GnuPG is missing: install gnupg"
    if [ -d "$link" ] && [ ! -L "$link" ]; then
        fail "a package of this system has installed the client: upgrade or remove it with your package manager"
    fi
}

read_release() { # what this archive is
    [ -f "$here/release" ] || fail "$here is no unpacked archive of a release"
    number=$(sed -n 's/^number=//p' "$here/release")
    version=$(sed -n 's/^version=//p' "$here/release")
    machine=$(sed -n 's/^machine=//p' "$here/release")
    [ "$(uname -m)" = "$machine" ] || fail "release $version is for $machine, and this machine is $(uname -m)"
    release=$releases/client-$number
}

own() { # what root installs is root's, whoever unpacked it
    if [ "$(id -u)" = 0 ]; then chown -R 0:0 "$1"; fi
}

present() { # the number of the release in use; nothing when there is none
    if [ -L "$link" ]; then readlink "$link" | sed -n 's/.*client-\([0-9]*\)$/\1/p'; fi
}

lay_release() { # the tree of this release beside the others, whole, with owners and modes that the manifest names
    if [ -d "$release" ]; then
        cmp -s "$release/manifest.json" "$here/root$inside/manifest.json" || fail "$release is another release of the same number; remove it first: $0 --uninstall"
        return
    fi
    mkdir -p "$releases"
    rm -rf "$releases"/.new-*
    new=$releases/.new-$$
    trap 'rm -rf "$new"' EXIT
    cp -R "$here/root$inside" "$new"
    cp "$here/setup" "$new/setup"
    own "$new"
    find "$new" -type d -exec chmod 755 {} +
    private=$new/settings/10-server-private.yml
    find "$new" -type f ! -path "$private" -exec chmod 644 {} +
    if [ -f "$private" ]; then chmod 600 "$private"; fi
    for program in "$new/pkg-setup" "$new/setup" "$new"/plugins/* "$new"/commands/*; do
        if [ -f "$program" ]; then chmod 755 "$program"; fi
    done
    sync
    mv "$new" "$release"
    trap - EXIT
}

make_environment() {
    # Its problems are said by itself; the release in use stays in use.
    python3 -I "$release/pkg-setup" venv || fail "release $version was not put into use"
}

put_into_use() {
    rm -f "$link.new"
    ln -s "releases/client-$number" "$link.new"
    # Not mv, which would move it into the directory that the old link points to.
    python3 -I -c 'import os, sys; os.replace(sys.argv[1], sys.argv[2])' "$link.new" "$link"
    sync
}

remove_old_releases() { # but for the one in use and the one before it
    for old in "$releases"/client-* "$releases"/.new-*; do
        case $old in "$release" | "$releases/client-${1:-none}") ;; *) rm -rf "$old" ;; esac
    done
}

put_file() { # SOURCE TARGET MODE
    mkdir -p "$(dirname "$2")"
    if ! cmp -s "$1" "$2"; then
        cp "$1" "$2.penguindome-new"
        own "$2.penguindome-new"
        chmod "$3" "$2.penguindome-new"
        mv -f "$2.penguindome-new" "$2"
    fi
    echo "$2" >>"$list.new"
}

put_files() { # what lies outside of the tree: command, documentation, units or cron entries
    rm -f "$list.new"
    units=$(unit_directory)
    for file in usr/bin/penguindome-client usr/share/man/man1/penguindome-client.1.gz \
        usr/share/bash-completion/completions/penguindome-client usr/share/doc/penguindome-client/copyright; do
        mode=644
        case $file in usr/bin/*) mode=755 ;; esac
        if [ -f "$here/root/$file" ]; then put_file "$here/root/$file" "$root/$file" "$mode"; fi
    done
    # As with Debian's package, the cron entries are there beside the units, and do nothing where systemd runs.
    if [ -n "$units" ]; then
        for file in "$here/root/units"/*; do put_file "$file" "$root$units/${file##*/}" 644; done
    fi
    if [ -d "$root/etc/cron.d" ]; then
        for file in "$here/root/cron"/*; do put_file "$file" "$root/etc/cron.d/${file##*/}" 644; done
    elif [ -z "$units" ]; then
        echo "setup: there is neither systemd nor /etc/cron.d here: let something run \`penguindome-client run\` every minute" >&2
    fi
    if [ -f "$list" ]; then
        sort "$list" | while read -r file; do
            grep -qxF -e "$file" "$list.new" || rm -f "$file"
        done
    fi
    mv -f "$list.new" "$list"
    mkdir -p "$settings/client.d"
    if [ ! -e "$settings/client.yml" ]; then
        cp "$here/root/etc/penguindome/client.yml" "$settings/client.yml.new"
        own "$settings/client.yml.new"
        chmod 644 "$settings/client.yml.new"
        mv "$settings/client.yml.new" "$settings/client.yml"
    fi
    for directory in "$state:700" "$logs:750"; do
        [ -d "${directory%:*}" ] || { mkdir -p "${directory%/*}" && mkdir -m "${directory#*:}" "${directory%:*}"; }
    done
    if command -v restorecon >/dev/null; then restorecon -R "$home" "$root/usr/bin/penguindome-client" "$settings" "$state" || true; fi
    if runs_systemd; then systemctl daemon-reload; fi
}

is_client() {
    [ -e "$state/device.key" ] && [ -e "$state/server.asc" ]
}

install() {
    require_system
    read_release
    before=$(present)
    if [ "$1" = all ] && [ -n "$before" ] && [ "$before" -gt "$number" ]; then
        fail "release $before is installed, and this is the older $number"
    fi
    lay_release
    make_environment
    put_files
    put_into_use
    if [ "$before" != "$number" ]; then remove_old_releases "$before"; fi
    [ "$1" = all ] || return 0
    if runs_systemd; then systemctl --quiet enable --now penguindome-client-python.path; fi
    if is_client; then
        if runs_systemd; then systemctl try-restart penguindome-client.timer; fi
        echo "release $version is in use"
    else
        start=''
        if runs_systemd; then start=--start; fi
        # Through a pipe: who unpacked the archive may own the file.
        # shellcheck disable=SC2086  # where nothing is to be started, it is no word
        "$link/venv/bin/python" -I -m penguindome.client setup --bundle - $start <"$here/bundle.json"
        echo "release $version is in use; the file bundle.json is a secret, and no longer needed: rm -r '$here'"
    fi
}

uninstall() {
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "this removes programs: run it as root (sudo $0 --uninstall)"
    if [ ! -L "$link" ] && [ ! -d "$releases" ]; then fail "the client was not installed from an archive"; fi
    if runs_systemd; then
        systemctl --quiet disable --now penguindome-client.timer penguindome-client-python.path || true
        systemctl stop penguindome-client.service || true
    fi
    if [ -f "$list" ]; then
        while read -r file; do rm -f "$file"; done <"$list"
    fi
    rm -f "$link" "$link.new"
    rm -rf "$releases"
    for directory in "$home" "$root/usr/share/doc/penguindome-client"; do rmdir "$directory" 2>/dev/null || true; done
    if runs_systemd; then systemctl daemon-reload; fi
    echo "The client is removed. Settings, keys and reports stay, in $settings, $state and $logs."
}

case ${1-} in
    '') install all ;;
    --release-only) install release ;;
    --uninstall) uninstall ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" ;;
    *)
        echo "setup: what is $1? see: $0 --help" >&2
        exit 2
        ;;
esac
