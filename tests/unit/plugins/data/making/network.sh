#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# ip_addresses, network_devices, os_info, sshd: in the virtual machine.
export LC_ALL=C
modprobe dummy; modprobe mac80211_hwsim radios=1; modprobe bonding; 
ip link add d0 type dummy; ip link add vethab12 type veth peer name eth9; ip link add br0 type bridge; ip link set vethab12 master br0; ip tuntap add dev tun0 mode tun; ip tuntap add dev vnet0 mode tap; ip link set vnet0 master br0; ip tuntap add dev tap9 mode tap; ip link add wg0 type wireguard; ip link show bond0 || ip link add bond0 type bond; ip link add link enp0s2 name enp0s2.5 type vlan id 5; ip link add mv0 link enp0s2 type macvlan; ip link add vx0 type vxlan id 7 dstport 4789; ip link add gre1 type gre local 127.0.0.1 remote 127.0.0.2; ip link add sit1 type sit remote 10.0.0.1
ip link set enp0s2 up; ip link set enp0s3 up; ip addr add 192.0.2.10/24 dev enp0s2; ip addr add 2001:db8::10/64 dev enp0s2; ip link set br0 up; ip addr add 10.9.0.1/16 dev br0; ip link set wg0 up; ip addr add 10.8.0.2/32 dev wg0; ip addr add 10.7.0.1 peer 10.7.0.2 dev tun0; ip link set tun0 up; sleep 2
sysctl -w net.ipv6.conf.enp0s3.use_tempaddr=2; ip -6 addr add 2001:db8:1::5/64 dev enp0s3 valid_lft 86400 preferred_lft 14400; ip -6 addr add 2001:db8:1::6/64 dev enp0s3 mngtmpaddr valid_lft 86400 preferred_lft 14400;  ip -6 addr add 2001:db8:1::7/64 dev enp0s3 valid_lft 600 preferred_lft 0; ip link set vethab12 up; ip link set eth9 up; sleep 4
ip link set enp0s3 down;  ip link set enp0s3 address 02:11:22:33:44:55; ip link set enp0s3 up; sleep 3;  ip -6 addr add 2001:db8:1::5/64 dev enp0s3 valid_lft 86400 preferred_lft 14400; ip -6 addr add 2001:db8:1:2::6/64 dev enp0s3 mngtmpaddr valid_lft 86400 preferred_lft 14400;  ip -6 addr add 2001:db8:1::7/64 dev enp0s3 valid_lft 600 preferred_lft 0; sleep 3
cap ip_addresses many addresses.json ip -json -details address; note ip_addresses many "Ethernets, dummy, bridge, veth, tun, tap, WireGuard, VLAN, macvlan, vxlan, GRE, sit, Wi-Fi (mac80211_hwsim); IPv6 with privacy extensions and a deprecated address"
cap network_devices many link.json ip -json -details link; note network_devices many "Ethernets (one with a changed address), dummy, bridge, veth, tun, tap, WireGuard, VLAN, macvlan, vxlan, GRE, sit, Wi-Fi (mac80211_hwsim)"
cat > /tmp/sysnet.py <<'X'
import json, os
from pathlib import Path
A=("address", "addr_assign_type", "flags", "ifindex", "iflink", "type", "tun_flags", "uevent")
D=("bonding", "bridge", "brport", "device", "master", "phy80211", "wireless")
out={}
for p in sorted(Path("/sys/class/net").iterdir()):
    if not p.is_dir(): continue
    f=out[p.name]={n: "" for n in D if (p/n).exists()}
    for n in A:
        try: f[n]=(p/n).read_text().strip()
        except OSError: pass
    try: f["driver"]=os.path.basename(os.readlink(p/"device/driver"))
    except OSError: pass
print(json.dumps(out, indent=1))
X
cap network_devices many sys.json python3 /tmp/sysnet.py
cap os_info vm os-release.txt cat /etc/os-release; cap os_info vm virt.txt systemd-detect-virt; cap os_info vm dmi.txt "cd /sys/class/dmi/id; grep . sys_vendor product_name bios_vendor chassis_type"; cap os_info vm cpuinfo.txt cat /proc/cpuinfo;  cap os_info vm stat.txt cat /proc/stat
systemctl start ssh; sleep 3
ss() { cap sshd $1 root.txt sshd -T -C user=root,host=203.0.113.1,addr=203.0.113.1; cap sshd $1 nobody.txt sshd -T -C user=nobody,host=203.0.113.1,addr=203.0.113.1;  cap sshd $1 units.txt systemctl show --property=Id,ActiveState ssh.service sshd.service ssh.socket sshd.socket; cap sshd $1 socket.txt systemctl show --property=Listen ssh.socket;  cap sshd $1 processes.txt "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < \$p | grep sshd; done"; note sshd $1 "$2"; }
ss default "as the package is installed, service started"
printf 'PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPort 22\nPort 2222\nListenAddress 127.0.0.1\nListenAddress ::1\nMatch User root\n PermitRootLogin no\nMatch User nobody\n PasswordAuthentication yes\nMatch Address 10.0.0.0/8\n PermitRootLogin yes\n' > /etc/ssh/sshd_config.d/site.conf
ss match "a fragment with two ports, PermitRootLogin yes but no for root by Match, PasswordAuthentication no but yes for the user nobody by Match"
rm /etc/ssh/sshd_config.d/site.conf; systemctl stop ssh; printf '[Socket]\nListenStream=\nListenStream=2022\n' > /tmp/o; mkdir -p /etc/systemd/system/ssh.socket.d; cp /tmp/o /etc/systemd/system/ssh.socket.d/o.conf; systemctl daemon-reload; systemctl start ssh.socket; mkdir -p /run/sshd
ss socket "socket activation on port 2022"; systemctl stop ssh.socket; rmdir /run/sshd; ss stopped "service stopped, no /run/sshd"
cap os_info vm kernels.txt uname -a
