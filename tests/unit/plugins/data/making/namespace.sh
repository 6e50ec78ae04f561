#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# nsrun.sh ROOT SCRIPT: in a chroot, with own mount, network, pid and uts namespaces
R=$1; S=$2
exec unshare -n -m -p -u -f --mount-proc sh -c "ip link set lo up; ip link add eth7 type veth peer name eth8; ip addr add 192.0.2.9/24 dev eth7; ip addr add 2001:db8::9/64 dev eth7; ip link set eth7 up; ip link set eth8 up; mount --bind $R $R; mkdir -p $R/mnt/share; mount -t proc proc $R/proc; mount -t sysfs sysfs $R/sys; mount --rbind /dev $R/dev; mount -t tmpfs tmpfs $R/run; mkdir -p $R/run/lock; mount --bind $PWD/share $R/mnt/share; chroot $R sh $S"
