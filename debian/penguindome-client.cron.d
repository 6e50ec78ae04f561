# For hosts without systemd, which has penguindome-client.timer.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
* * * * * root [ -d /run/systemd/system ] || [ ! -x /usr/bin/penguindome-client ] || [ ! -e /var/lib/penguindome/client/device.key ] || nice penguindome-client run 2>&1 | logger -t penguindome-client
