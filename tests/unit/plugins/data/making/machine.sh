#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# machine.sh SUITE SHARE [timeout]: boots SUITE.cpio as root file system in RAM, with a NVMe, two SATA disks, an USB stick and a CD
s=$1; share=$2; t=${3:-900}
for i in 1 2 3; do rm -f disk-$s-$i.img; truncate -s 900M disk-$s-$i.img; done
timeout $t qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -m 4096 -smp 2 -nographic -no-reboot \
 -kernel $s.vmlinuz -initrd $s.cpio -append "rdinit=/sbin/init rw console=ttyS0 cgroup_disable=memory" \
 -drive file=disk-$s-1.img,format=raw,if=none,id=d1 -device nvme,drive=d1,serial=nv1 \
 -device ahci,id=ahci0 -drive file=disk-$s-2.img,format=raw,if=none,id=d2 -device ide-hd,drive=d2,bus=ahci0.0 \
 -drive file=disk-$s-3.img,format=raw,if=none,id=d3 -device ide-hd,drive=d3,bus=ahci0.1 \
 -drive file=usb.img,format=raw,if=none,id=u1 -device qemu-xhci -device usb-storage,drive=u1,removable=on \
 -drive file=cd.iso,media=cdrom \
 -nic user,model=virtio-net-pci,mac=52:54:00:12:34:56 -nic user,model=e1000,mac=52:54:00:12:34:57 -smbios type=1,manufacturer=LENOVO,product=20XWS00000 -smbios type=3,manufacturer=LENOVO \
 -fsdev local,id=f,path=$share,security_model=none -device virtio-9p-pci,fsdev=f,mount_tag=share
