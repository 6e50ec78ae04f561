# For hosts without systemd, which has penguindome-client.timer. Each machine has its own second of the minute.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
* * * * * root [ -d /run/systemd/system ] || [ ! -x /usr/bin/penguindome-client ] || [ ! -e /var/lib/penguindome/client/device.key ] || { sleep $(($(uname -n | cksum | cut -c1-2) / 2)); nice penguindome-client run 2>&1 | logger -t penguindome-client; }
# An update that was interrupted goes on, whatever is installed by halves.
*/10 * * * * root [ -d /run/systemd/system ] || for resume in /var/lib/penguindome/client/updater-*/resume; do [ ! -x "$resume" ] || "$resume"; done 2>&1 | logger -t penguindome-client
