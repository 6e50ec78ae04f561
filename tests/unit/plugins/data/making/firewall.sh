#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# firewall: in a chroot with a network namespace.
export LC_ALL=C
fw() { cap firewall $1 nft.json nft -j list ruleset; cap firewall $1 iptables.txt iptables-save; cap firewall $1 ip6tables.txt ip6tables-save
 cap firewall $1 ufw.txt ufw status verbose; cap firewall $1 firewalld-state.txt firewall-cmd --state;  note firewall $1 "$2"
 if grep -q . /proc/net/ip_tables_names 2>/dev/null; then cap firewall $1 iptables-legacy.txt iptables-legacy-save;  cap firewall $1 ip6tables-legacy.txt ip6tables-legacy-save; fi
 [ "$(firewall-cmd --state 2>/dev/null)" = running ] && cap firewall $1 firewalld.txt firewall-cmd --list-all; }
clean() { nft flush ruleset; }
clean; fw none "no rules"
nft -f - <<'X'
flush ruleset
table inet filter {
	chain input { type filter hook input priority 0; }
	chain forward { type filter hook forward priority 0; }
	chain output { type filter hook output priority 0; }
}
X
fw nft-shipped-default "Debian's /etc/nftables.conf as the package ships it: three chains, no rules, policy accept"
nft -f - <<'X'
flush ruleset
table inet filter {
	chain input { type filter hook input priority 0; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif lo accept
		ip6 nexthdr icmpv6 icmpv6 type { nd-neighbor-solicit, nd-router-advert, nd-neighbor-advert } accept
		ip protocol icmp icmp type echo-request limit rate 4/second accept
		tcp dport { 22, 80 } ct state new accept
		log prefix "dropped: " counter
	}
	chain forward { type filter hook forward priority 0; policy drop; }
}
X
fw nft-workstation "a workstation's rules, policy drop for both families"
nft -f - <<'X'
flush ruleset
table ip filter { chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept;
}
}
X
fw nft-ipv4-only "policy drop for IPv4, nothing for IPv6"
nft -f - <<'X'
flush ruleset
table inet filter {
	chain input { type filter hook input priority 0; policy accept;
		ct state established,related accept
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 22 accept
		jump others
	}
	chain others { counter reject with icmpx type admin-prohibited;
}
}
X
fw nft-last-rule-rejects "policy accept, the last rule jumps to a chain that rejects everything"
nft -f - <<'X'
flush ruleset
table inet filter { chain input { type filter hook input priority 0; policy drop; ct state invalid drop; counter accept;
}
}
X
fw nft-drop-but-accepts-all "policy drop, but a rule before it accepts everything"
nft -f - <<'X'
flush ruleset
table inet filter { chain input { type filter hook input priority 0; policy accept; ct state new tcp dport != { 22, 443 } drop; meta l4proto udp ct state new drop;
}
}
X
fw nft-all-but-some-ports "drops new TCP to all but two ports, and all new UDP"
nft -f - <<'X'
flush ruleset
table inet filter { chain input { type filter hook input priority 0; policy accept; tcp dport 23 drop; ip saddr { 192.0.2.1, 192.0.2.2 } drop; tcp flags syn limit rate over 10/second drop;
}
}
X
fw nft-some-ports-only "drops one port, two addresses and floods; nothing else"
nft -f - <<'X'
flush ruleset
table inet filter { chain input { type filter hook input priority 0; policy accept; iifname "wlan0" ct state established accept; iifname "wlan0" drop;
}
}
X
fw nft-one-interface "drops what comes in by one interface"
nft -f - <<'X'
flush ruleset
table inet filter { chain input { type filter hook input priority 0; policy accept; iifname != "lo" ct state new reject;
}
}
X
fw nft-all-but-loopback "rejects new connections from everywhere but loopback"
nft -f - <<'X'
flush ruleset
table inet raw { chain early { type filter hook prerouting priority raw; policy accept; ct state established,related accept; iifname lo accept; fib daddr type local drop;
}
}
X
fw nft-prerouting "drops in prerouting what is for this machine"
nft -f - <<'X'
flush ruleset
table ip libvirt_network {
 chain forward { type filter hook forward priority filter; policy accept; counter jump guest_input;
}
 chain guest_input { oif "lo" ip daddr 192.168.122.0/24 ct state related,established counter accept; oif "lo" counter reject;
}
 chain guest_nat { type nat hook postrouting priority srcnat; policy accept; ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 counter masquerade;
}
}
X
iptables -N DOCKER; iptables -N DOCKER-USER; iptables -N DOCKER-ISOLATION-STAGE-1; iptables -P FORWARD DROP; iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -j DOCKER-ISOLATION-STAGE-1; iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A FORWARD -o docker0 -j DOCKER; iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT;  iptables -A DOCKER-USER -j RETURN; iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN; iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER; iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE;  iptables -t nat -A DOCKER -i docker0 -j RETURN
fw forward-only "the rules that docker (by iptables) and libvirt (by nft) make to forward; no docker or libvirt is there"
clean
for i in iptables ip6tables; do $i -P INPUT DROP; $i -A INPUT -i lo -j ACCEPT; $i -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT;  $i -A INPUT -p tcp -m tcp --dport 22 -m comment --comment "let -j DROP me in" -j ACCEPT; done
fw iptables-policy-drop "iptables (nf_tables): policy DROP, both families"
clean
iptables -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT; iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited
fw iptables-reject-ipv4-only "iptables (nf_tables): a last rule that rejects, for IPv4 only"
ip6tables -N LOGDROP; ip6tables -A LOGDROP -m limit --limit 3/min -j LOG --log-prefix "dropped "; ip6tables -A LOGDROP -j DROP; ip6tables -A INPUT -i lo -j ACCEPT; ip6tables -A INPUT -m conntrack --ctstate NEW,INVALID -g LOGDROP
fw iptables-reject-and-goto "as before, and IPv6 by -g to a chain that logs and drops what is new"
clean
iptables -N f2b-sshd; iptables -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd; iptables -A f2b-sshd -s 192.0.2.7/32 -j REJECT --reject-with icmp-port-unreachable; iptables -A f2b-sshd -j RETURN; iptables -A INPUT ! -i lo -p tcp -m tcp ! --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN -j DROP;
fw iptables-fail2ban-tcp-only "what fail2ban makes, and a rule that drops new TCP but lets UDP in"
clean

ufw --force enable; fw ufw-default "ufw enabled, with its defaults"
ufw allow 22/tcp; ufw limit OpenSSH; ufw default reject incoming; fw ufw-reject "ufw, default reject, SSH let in"
ufw default allow incoming; fw ufw-allow "ufw enabled, but incoming allowed by default"
ufw default deny incoming; sed -i 's/^IPV6=.*/IPV6=no/' /etc/default/ufw; ufw disable; clean; ip6tables -P INPUT ACCEPT; ufw --force enable; fw ufw-no-ipv6 "ufw enabled with IPV6=no"
ufw disable; fw ufw-disabled "ufw disabled again"
iptables -F; iptables -X; clean; mkdir -p /run/dbus; dbus-uuidgen --ensure; dbus-daemon --system --fork; firewalld --nofork --nopid >/tmp/fwd.log 2>&1 & sleep 12; fw firewalld-public "firewalld, zone public"
firewall-cmd -q --zone=trusted --change-interface=eth7;   fw firewalld-trusted-interface "firewalld, an interface in zone trusted, default zone public"
firewall-cmd -q --set-default-zone=trusted; fw firewalld-trusted "firewalld, default zone trusted"
firewall-cmd -q --set-default-zone=drop; firewall-cmd -q --add-rich-rule='rule family=ipv4 source address=192.0.2.0/24 service name=ssh accept'; firewall-cmd -q --add-port=8443/tcp; fw firewalld-drop "firewalld, default zone drop with a rich rule and a port"
kill $(cat /run/firewalld.pid); pkill firewalld; clean
for i in iptables-legacy ip6tables-legacy; do $i -P INPUT DROP; $i -A INPUT -i lo -j ACCEPT; $i -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; done
fw iptables-legacy "legacy iptables: policy DROP, both families, while iptables is the nf_tables variant"
for i in iptables-legacy ip6tables-legacy; do $i -F; $i -P INPUT ACCEPT; done
