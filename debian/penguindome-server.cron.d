# For hosts without systemd, which has penguindome-audit.timer and penguindome-repository.timer.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
17 * * * * penguindome [ -d /run/systemd/system ] || [ ! -x /usr/bin/penguindome ] || [ ! -e /var/lib/penguindome/releases/server.asc ] || penguindome issues audit --mail 2>&1 | logger -t penguindome-audit
47 * * * * root [ -d /run/systemd/system ] || [ ! -x /usr/bin/penguindome ] || [ ! -e /var/lib/penguindome/keys/server.fingerprint ] || penguindome release refresh 2>&1 | logger -t penguindome-repository
