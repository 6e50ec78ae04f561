#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# os_updates, packages: rpm and dnf of Debian with packages of our own.
set -e; cd "$HOME"; mkdir -p repo; 
mk() { n=$1; v=$2; a=$3; e=$4; printf 'Name: %s\nVersion: %s\nRelease: 1.fc40\nSummary: x\nLicense: MIT\n%s\n%%description\nx\n%%files\n' $n $v "${e:+Epoch: $e}" > $n.spec; rpmbuild -bb --target $a $n.spec >/dev/null 2>&1; }
mk demo-tool 1.0 noarch; mk demo-lib 2.0 x86_64 1; mk demo-lib 2.0 i686 1; mk a-package-with-a-really-long-name-that-older-versions-would-wrap 1.2.3 noarch; mk kernel-core 6.8.5 x86_64; mk kernel-core 6.8.7 x86_64; mk same 1.0 noarch
mkdir -p inst; find rpmbuild/RPMS -name '*.rpm' -exec mv {} inst/ \;
mk demo-tool 1.1 noarch; mk demo-lib 2.1 x86_64 1; mk demo-lib 2.1 i686 1; mk a-package-with-a-really-long-name-that-older-versions-would-wrap 1.2.4 noarch;  mk kernel-core 6.8.9 x86_64; mk same 1.0 noarch
find rpmbuild/RPMS -name '*.rpm' -exec mv {} repo/ \;
cat > updateinfo.xml <<'X'
<?xml version="1.0" encoding="UTF-8"?>
<updates><update from="x@example.com" status="final" type="security" version="1"><id>FEDORA-2024-1a2b3c4d5e</id><title>demo-lib-2.1-1.fc40</title><issued date="2024-05-01 01:02:03"/><severity>Important</severity><description>x</description><references/><pkglist><collection short="F40"><name>Fedora 40</name><package name="demo-lib" version="2.1" release="1.fc40" epoch="1" arch="x86_64" src="demo-lib-2.1-1.fc40.src.rpm"><filename>demo-lib-2.1-1.fc40.x86_64.rpm</filename></package><package name="demo-lib" version="2.1" release="1.fc40" epoch="1" arch="i686" src="demo-lib-2.1-1.fc40.src.rpm"><filename>demo-lib-2.1-1.fc40.i686.rpm</filename></package></collection></pkglist></update>
<update from="x@example.com" status="final" type="bugfix" version="1"><id>FEDORA-2024-aaaaaaaaaa</id><title>demo-tool</title><issued date="2024-05-01 01:02:03"/><severity>None</severity><description>x</description><references/><pkglist><collection short="F40"><name>Fedora 40</name><package name="demo-tool" version="1.1" release="1.fc40" epoch="0" arch="noarch" src="demo-tool-1.1-1.fc40.src.rpm"><filename>demo-tool-1.1-1.fc40.noarch.rpm</filename></package></collection></pkglist></update></updates>
X
createrepo_c -q repo; modifyrepo_c updateinfo.xml repo/repodata >/dev/null
rpm -i --nodeps --ignorearch inst/*.rpm || true
mkdir -p /etc/yum.repos.d; printf "[updates]\nname=updates\nbaseurl=file://%s/repo\ngpgcheck=0\nenabled=1\n" "$HOME" > /etc/yum.repos.d/updates.repo
rpm -qa
