#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# hd_encryption: builds each stack of storage on the disks of a virtual machine, and records it as seen from its own root.
COLS=NAME,KNAME,TYPE,FSTYPE,FSVER,LABEL,UUID,PARTTYPE,MOUNTPOINTS,RM,HOTPLUG,TRAN
COLS1=NAME,KNAME,TYPE,FSTYPE,LABEL,UUID,PARTTYPE,MOUNTPOINT,RM,HOTPLUG,TRAN
export LC_ALL=C
S=/mnt/sys
mkroot() { # the device that holds / of the machine under test
  mkdir -p $S; mount $1 $S || return 1
  for f in /bin/sh /bin/cat /usr/bin/lsblk /usr/bin/grep $(ldd /bin/sh /bin/cat /usr/bin/lsblk /usr/bin/grep | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do mkdir -p $S$(dirname $f); cp -L $f $S$f; done
  mkdir -p $S/proc $S/sys $S/dev $S/run $S/boot $S/home; mount -t proc proc $S/proc; mount --rbind /sys $S/sys; mount --rbind /dev $S/dev; mount --rbind /run $S/run; }
lb() { udevadm settle; sleep 1
 cap hd_encryption $1 lsblk.json chroot $S lsblk --json --output $COLS
 cap hd_encryption $1 lsblk-old.json chroot $S lsblk --json --output $COLS1
 cap hd_encryption $1 mounts.txt chroot $S cat /proc/self/mounts
 cap hd_encryption $1 swaps.txt chroot $S cat /proc/swaps
 cap hd_encryption $1 uuids.txt "chroot $S grep -sH . /sys/block/*/dm/uuid"
 cap hd_encryption $1 dmsetup.txt dmsetup table --target crypt
 note hd_encryption $1 "$2"; }
lf() { echo -n secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$@" -; }
lo() { echo -n secret | cryptsetup open "$@" --key-file -; }
down() { umount -l $S/srv 2>/dev/null; swapoff -a; umount -R $S/boot/efi 2>/dev/null; umount -lR $S 2>/dev/null; umount -l /mnt/u 2>/dev/null; udevadm settle; sleep 2
 vgchange -an >/dev/null 2>&1; for m in $(dmsetup ls --noheadings 2>/dev/null | awk '$1 != "No" {print $1}'); do dmsetup remove --retry $m; done; dmsetup remove_all
 mdadm --stop --scan 2>/dev/null; for b in /sys/block/bcache*; do [ -e $b ] && echo 1 > $b/bcache/stop; done; for c in /sys/fs/bcache/*/stop; do [ -e $c ] && echo 1 > $c; done; sleep 1
 for d in /dev/nvme0n1p* /dev/sda[0-9] /dev/sdb[0-9] /dev/nvme0n1 /dev/sda /dev/sdb; do [ -b $d ] && { mdadm --zero-superblock $d 2>/dev/null; wipefs -qaf $d; dd if=/dev/zero of=$d bs=1M count=20 2>/dev/null; }; done; swapoff -a; for d in /dev/nvme0n1 /dev/sda /dev/sdb; do blockdev --rereadpt $d; done; udevadm settle; sleep 1; lsblk; }
part() { printf 'label: gpt\nsize=100M,type=uefi\nsize=150M\nsize=450M\ntype=swap\n' | sfdisk -q /dev/nvme0n1; udevadm settle; sleep 1; mkfs.vfat /dev/nvme0n1p1 >/dev/null; mkfs.ext4 -q /dev/nvme0n1p2; }
boots() { mount /dev/nvme0n1p2 $S/boot; mkdir -p $S/boot/efi; mount /dev/nvme0n1p1 $S/boot/efi; }
set -x
# the USB stick and a squashfs image on a loop device are there in all scenarios
mkfs.vfat -I /dev/disk/by-id/usb-* >/dev/null; mkdir -p /mnt/u /mnt/snap; 
mksquashfs /etc /tmp/x.squashfs -quiet >/dev/null; mount -o loop /tmp/x.squashfs /mnt/snap
part; mkfs.ext4 -q /dev/nvme0n1p3; mkswap -q /dev/nvme0n1p4; mkroot /dev/nvme0n1p3; boots; swapon /dev/nvme0n1p4; mkdir -p $S/media/stick; mount /dev/disk/by-id/usb-* $S/media/stick
lb plain "GPT: ESP, /boot, / ext4, swap partition; no encryption; USB stick mounted; squashfs on a loop device"
swapoff -a; lb plain-swap-off "as before, swap switched off"
modprobe zram; echo 64M > /sys/block/zram0/disksize; mkswap -q /dev/zram0; swapon /dev/zram0
dd if=/dev/zero of=$S/swapfile bs=1M count=20 2>/dev/null; chmod 600 $S/swapfile; mkswap -q $S/swapfile; cp /usr/sbin/swapon $S/bin/ ; for f in $(ldd /usr/sbin/swapon | grep -o '/[^ ]*\.so[^ ]*'); do mkdir -p $S$(dirname $f); cp -L $f $S$f; done; chroot $S /bin/swapon /swapfile
lb plain-swapfile-zram "as before, a swap file on /, and swap in zram"
chroot $S /bin/sh -c 'true'; swapoff $S/swapfile; swapoff /dev/zram0; echo 1 > /sys/block/zram0/reset; down
# LUKS2 on partitions
part; lf --type luks2 /dev/nvme0n1p3; lo /dev/nvme0n1p3 nvme0n1p3_crypt; mkfs.ext4 -q /dev/mapper/nvme0n1p3_crypt; mkroot /dev/mapper/nvme0n1p3_crypt; boots
cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --key-file /dev/urandom /dev/nvme0n1p4 cryptswap; mkswap -q /dev/mapper/cryptswap; swapon /dev/mapper/cryptswap
lb luks2-partition-plain-swap "LUKS2 on a partition for /, dm-crypt plain with a random key for swap, unencrypted ESP and /boot"
dd if=/dev/zero of=$S/swapfile bs=1M count=20 2>/dev/null; chmod 600 $S/swapfile; mkswap -q $S/swapfile; swapoff -a; cp /usr/sbin/swapon $S/bin/ ; for f in $(ldd /usr/sbin/swapon | grep -o '/[^ ]*\.so[^ ]*'); do mkdir -p $S$(dirname $f); cp -L $f $S$f; done; chroot $S /bin/swapon /swapfile
lb luks2-swapfile "as before, but a swap file on the encrypted / instead of the swap device, which stays open"
chroot $S /bin/sh -c true; swapoff $S/swapfile; down
# LVM on LUKS1
part; lf --type luks1 /dev/nvme0n1p3; lo /dev/nvme0n1p3 cryptlvm; pvcreate -qq /dev/mapper/cryptlvm; vgcreate -qq vg-main /dev/mapper/cryptlvm; lvcreate -qq -y -L 200M -n root vg-main; lvcreate -qq -y -L 60M -n swap_1 vg-main; lvcreate -qq -y -L 80M -n home vg-main
mkfs.ext4 -q /dev/vg-main/root; mkfs.xfs -q /dev/vg-main/home || mkfs.ext4 -q /dev/vg-main/home; mkswap -q /dev/vg-main/swap_1; mkroot /dev/vg-main/root; boots; mount /dev/vg-main/home $S/home; swapon /dev/vg-main/swap_1
lb lvm-on-luks1 "LVM on LUKS1 (the Debian installer's layout): root, home, swap_1; unencrypted ESP and /boot"
down
# LUKS on LVM, swap forgotten
part; pvcreate -qq -y /dev/nvme0n1p3; vgcreate -qq vg0 /dev/nvme0n1p3; lvcreate -qq -y -L 200M -n root vg0; lvcreate -qq -y -L 60M -n swap vg0; lvcreate -qq -y -L 80M -n home vg0
lf --type luks2 /dev/vg0/root; lo /dev/vg0/root root_crypt; lf --type luks2 /dev/vg0/home;  lo /dev/vg0/home home_crypt; mkfs.ext4 -q /dev/mapper/root_crypt;  mkfs.ext4 -q /dev/mapper/home_crypt; mkswap -q /dev/vg0/swap; mkroot /dev/mapper/root_crypt; mount /dev/mapper/home_crypt $S/home; boots; swapon /dev/vg0/swap
lb luks-on-lvm-clear-swap "LUKS2 on LVM for / and /home; swap on a logical volume without encryption"
down
# a LV over two PVs, one of them encrypted
part; lf --type luks2 /dev/nvme0n1p3; lo /dev/nvme0n1p3 pv1; pvcreate -qq -y /dev/mapper/pv1 /dev/sda; vgcreate -qq vg0 /dev/mapper/pv1 /dev/sda; lvcreate -qq -y -l 60%VG -n root vg0; lvcreate -qq -y -L 60M -n swap vg0 /dev/mapper/pv1; mkfs.ext4 -q /dev/vg0/root; mkswap -q /dev/vg0/swap; mkroot /dev/vg0/root; boots; swapon /dev/vg0/swap
lb lvm-half-encrypted "a logical volume for / over two physical volumes, the second one (all of /dev/sda) not encrypted"
down
part; lf --type luks2 /dev/nvme0n1p3; lo /dev/nvme0n1p3 pv1; lf --type luks2 /dev/sda; lo /dev/sda pv2; pvcreate -qq -y /dev/mapper/pv1 /dev/mapper/pv2; vgcreate -qq vg0 /dev/mapper/pv1 /dev/mapper/pv2; lvcreate -qq -y -l 60%VG -n root vg0; lvcreate -qq -y -L 60M -n swap vg0; mkfs.ext4 -q /dev/vg0/root; mkswap -q /dev/vg0/swap; mkroot /dev/vg0/root; boots; swapon /dev/vg0/swap
lb lvm-two-encrypted "a logical volume for / over two physical volumes, both LUKS2"
down
# RAID1 under LUKS
modprobe raid1; yes | mdadm --create /dev/md/data --level=1 --raid-devices=2 --metadata=1.2 --run /dev/sda /dev/sdb; lf --type luks2 /dev/md/data; lo /dev/md/data md_crypt; mkfs.ext4 -q /dev/mapper/md_crypt; mkroot /dev/mapper/md_crypt
lb raid1-luks "RAID 1 of two disks, LUKS2 on it, / on that"
umount -lR $S; sleep 1; dmsetup remove --retry md_crypt; wipefs -qaf /dev/md/data; mkfs.ext4 -q -F /dev/md/data; mkroot /dev/md/data
lb raid1-clear "RAID 1 of two disks, / on it without encryption"
down; down
# btrfs over two devices
modprobe btrfs; lf --type luks2 /dev/sda; lo /dev/sda b1; mkfs.btrfs -q -f /dev/mapper/b1 /dev/sdb; btrfs device scan; mkroot /dev/mapper/b1
lb btrfs-half-encrypted "btrfs over two devices, the second one not encrypted"
down
lf --type luks2 /dev/sda; lo /dev/sda b1; lf --type luks2 /dev/sdb; lo /dev/sdb b2; mkfs.btrfs -q -f /dev/mapper/b1 /dev/mapper/b2; btrfs device scan; mkroot /dev/mapper/b1; mkdir $S/home; btrfs subvolume create $S/@home; mount -o subvol=@home /dev/mapper/b1 $S/home
lb btrfs-encrypted "btrfs over two LUKS2 devices, a subvolume mounted on /home"
down
# dm-verity and dm-integrity call themselves crypt as well
mkfs.ext4 -q /dev/sda; veritysetup format /dev/sda /dev/sdb > /tmp/v; H=$(awk '/Root hash/{print $3}' /tmp/v); veritysetup open /dev/sda vroot /dev/sdb $H; mkdir -p /mnt/sys; part; mkfs.ext4 -q /dev/nvme0n1p3; mkroot /dev/nvme0n1p3; mkdir -p $S/opt; mount -o ro /dev/mapper/vroot $S/opt
lb verity "a dm-verity device (not encrypted, though lsblk calls it crypt) on /opt; / not encrypted"
umount $S/opt; veritysetup close vroot; down
part; umount -R $S; lf --type luks2 --integrity hmac-sha256 -c aes-xts-plain64 /dev/nvme0n1p3; lo /dev/nvme0n1p3 intact; mkfs.ext4 -q /dev/mapper/intact; mkroot /dev/mapper/intact; 
cryptsetup open --type plain --cipher cipher_null-ecb --key-size 256 --key-file /dev/urandom /dev/sda nullcrypt; mkfs.ext4 -q /dev/mapper/nullcrypt; mkdir -p $S/srv; mount /dev/mapper/nullcrypt $S/srv
lb integrity-and-null "LUKS2 with integrity for /; /srv on dm-crypt with cipher_null, which encrypts nothing"
down
# bcache: backing device encrypted, cache not
modprobe bcache; lf --type luks2 /dev/sda; lo /dev/sda backing; make-bcache -C /dev/sdb -B /dev/mapper/backing; sleep 2; echo /dev/sdb > /sys/fs/bcache/register; echo /dev/mapper/backing > /sys/fs/bcache/register; sleep 2; ls /dev/bcache*; mkfs.ext4 -q /dev/bcache0; mkroot /dev/bcache0
lb bcache-half-encrypted "bcache: the backing device LUKS2, the cache device not encrypted"
down
# locked container and other system
part; lf --type luks2 /dev/nvme0n1p3; lo /dev/nvme0n1p3 r; mkfs.ext4 -q /dev/mapper/r; mkroot /dev/mapper/r; boots; lf --type luks2 /dev/sda; pvcreate -qq -y /dev/sdb
lb locked "LUKS2 for /; a second LUKS2 disk, locked; a third disk that is an unused physical volume of LVM; nvme0n1p4 empty"
down
lf --type luks2 --header /tmp/hdr.img /dev/sda; echo -n secret | cryptsetup open --header /tmp/hdr.img /dev/sda detached --key-file -; mkfs.ext4 -q /dev/mapper/detached; mkroot /dev/mapper/detached
lb detached-header "LUKS2 with a detached header on a whole disk"
down
lf --type luks2 /dev/sda; lo /dev/sda thin; pvcreate -qq -y /dev/mapper/thin; vgcreate -qq vg0 /dev/mapper/thin; lvcreate -qq -y -L 300M -T vg0/pool -V 400M -n root; mkfs.ext4 -q /dev/vg0/root; mkroot /dev/vg0/root
lb lvm-thin-on-luks "a thin logical volume on LUKS2"
down
# an overlay as root, as containers have
mkdir -p /mnt/sys /tmp/up /tmp/wk /tmp/low; mkfs.ext4 -q -F /dev/sda; mount /dev/sda /tmp/low; mkdir -p /tmp/low/u /tmp/low/w /tmp/low/l; mount -t overlay overlay -o lowerdir=/tmp/low/l,upperdir=/tmp/low/u,workdir=/tmp/low/w $S
for f in /bin/sh /bin/cat /usr/bin/lsblk /usr/bin/grep $(ldd /bin/sh /bin/cat /usr/bin/lsblk /usr/bin/grep | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do mkdir -p $S$(dirname $f); cp -L $f $S$f; done; mkdir -p $S/proc $S/sys $S/dev $S/run $S/etc; mount -t proc proc $S/proc; mount --rbind /sys $S/sys; touch $S/etc/hosts; mount --bind /tmp/low/l $S/run
lb overlay-root "an overlay as /, without /dev, as in a container"
set +x
