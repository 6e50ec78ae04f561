#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# os_updates, packages: pacman of Debian with packages of our own, which a user other than root builds.
useradd -m b 2>/dev/null; mkdir -p /pk /pr; chown b /pk /pr
mk() { mkdir -p /home/b/$1; printf "pkgname=%s\npkgver=%s\npkgrel=%s\nepoch=%s\narch=(any)\noptions=(!strip)\npkgdesc=x\npackage() { mkdir -p \$pkgdir/usr/share/%s; }\n" $1 $2 $3 ${4:-0} $1 > /home/b/$1/PKGBUILD; chown -R b /home/b; (cd /home/b/$1 || exit; su b -c "PKGDEST=$5 makepkg -f -d" >/tmp/mk.log 2>&1 || tail -3 /tmp/mk.log); }
mk demo-tool 1.0 1 0 /pk; mk demo-lib 2.0 3 1 /pk; mk linux-demo 6.9.arch1 1 0 /pk; mk same 1 1 0 /pk
pacman -U --noconfirm /pk/*.pkg.tar* >/tmp/u.log 2>&1; tail -2 /tmp/u.log
mk demo-tool 1.1 1 0 /pr; mk demo-lib 2.1 1 1 /pr;  mk linux-demo 6.10.arch1 1 0 /pr; mk same 1 1 0 /pr
repo-add -q /pr/core.db.tar.gz /pr/*.pkg.tar*
printf '[options]\nArchitecture = auto\nSigLevel = Never\nIgnorePkg = linux-demo\n[core]\nServer = file:///pr\n' > /etc/pacman.conf
pacman -Sy >/dev/null; pacman -Q; pacman -Qu; echo rc $?
