"""Which volumes are encrypted, on real stacks of partitions, LUKS, LVM, RAID, btrfs and swap."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Read = Callable[[str], str]

ESP = "/dev/nvme0n1p1 /boot/efi filesystem none boot"
BOOT = "/dev/nvme0n1p2 /boot filesystem none boot"

SCENARIOS: dict[str, tuple[bool | str, list[str]]] = {
    "plain": (False, [ESP, BOOT, "/dev/nvme0n1p3 / filesystem none", "/dev/nvme0n1p4 - swap none"]),
    "plain-swap-off": (False, [ESP, BOOT, "/dev/nvme0n1p3 / filesystem none", "/dev/nvme0n1p4 - swap none"]),
    "plain-swapfile-zram": (
        False,
        [ESP, BOOT, "/dev/nvme0n1p3 / filesystem none", "/dev/nvme0n1p4 - swap none", "/swapfile - swap none"],
    ),
    "luks2-partition-plain-swap": (
        True,
        ["/dev/mapper/cryptswap - swap dm-crypt", "/dev/mapper/nvme0n1p3_crypt / filesystem luks2", ESP, BOOT],
    ),
    "luks2-swapfile": (
        True,
        [
            "/dev/mapper/cryptswap - swap dm-crypt",
            "/dev/mapper/nvme0n1p3_crypt / filesystem luks2",
            ESP,
            BOOT,
            "/swapfile - swap luks2",
        ],
    ),
    "lvm-on-luks1": (
        True,
        [
            "/dev/mapper/vg--main-home /home filesystem luks1",
            "/dev/mapper/vg--main-root / filesystem luks1",
            "/dev/mapper/vg--main-swap_1 - swap luks1",
            ESP,
            BOOT,
        ],
    ),
    "luks-on-lvm-clear-swap": (
        False,
        [
            "/dev/mapper/home_crypt /home filesystem luks2",
            "/dev/mapper/root_crypt / filesystem luks2",
            "/dev/mapper/vg0-swap - swap none",
            ESP,
            BOOT,
        ],
    ),
    "lvm-half-encrypted": (
        False,
        ["/dev/mapper/vg0-root / filesystem none", "/dev/mapper/vg0-swap - swap luks2", ESP, BOOT],
    ),
    "lvm-two-encrypted": (
        True,
        ["/dev/mapper/vg0-root / filesystem luks2", "/dev/mapper/vg0-swap - swap luks2", ESP, BOOT],
    ),
    "lvm-thin-on-luks": (True, ["/dev/mapper/vg0-root / filesystem luks2"]),
    "raid1-luks": (True, ["/dev/mapper/md_crypt / filesystem luks2"]),
    "raid1-clear": (False, ["/dev/md127 / filesystem none"]),
    "btrfs-half-encrypted": (False, ["/dev/mapper/b1 / filesystem luks2", "/dev/sdb / filesystem none"]),
    "btrfs-encrypted": (True, ["/dev/mapper/b1 /,/home filesystem luks2", "/dev/mapper/b2 /,/home filesystem luks2"]),
    "verity": (
        False,
        [
            "/dev/mapper/vroot /opt filesystem none",
            "/dev/nvme0n1p1 - filesystem none boot",
            "/dev/nvme0n1p2 - filesystem none",
            "/dev/nvme0n1p3 / filesystem none",
        ],
    ),
    "integrity-and-null": (
        False,
        [
            "/dev/mapper/intact / filesystem luks2",
            "/dev/mapper/nullcrypt /srv filesystem none",
            "/dev/nvme0n1p1 - filesystem none boot",
            "/dev/nvme0n1p2 - filesystem none",
        ],
    ),
    "overlay-root": ("unknown", ["/dev/sda /run filesystem none", "unknown / filesystem unknown"]),
    "detached-header": (True, ["/dev/mapper/detached / filesystem luks2"]),
    "bcache-half-encrypted": (False, ["/dev/bcache0 / filesystem none"]),
}


RECORDED_OTHERWISE = {
    # udev had not yet noted what is on the first device, so that lsblk does not know that the two belong together.
    "debian12-btrfs-half-encrypted": (
        False,
        ["/dev/mapper/b1 / filesystem luks2", "/dev/sdb - filesystem none"],
    ),
}


def rows(report: dict[str, Any]) -> list[str]:
    """The volumes of a report, a short line each."""
    found = []
    for volume in report["volumes"]:
        places = ",".join(volume["mountpoints"]) or "-"
        marks = [mark for mark in ("boot", "removable") if volume.get(mark)]
        assert volume["encrypted"] == {"none": False, "unknown": "unknown"}.get(volume["method"], True)
        found.append(" ".join([volume["path"], places, volume["kind"], volume["method"], *marks]))
    return found


def examine(plugin: ModuleType, read: Read, stem: str, lsblk: str = "lsblk.json", **changes: Any) -> dict[str, Any]:
    devices = plugin.parse_lsblk(read(f"{stem}.{lsblk}"))
    uuids = {}
    for line in read(f"{stem}.uuids.txt").splitlines():
        path, _, uuid = line.rpartition(":")
        # grep names the file only where there are several.
        kernel_name = path.split("/")[3] if path else next(name for name in devices if name.startswith("dm-"))
        uuids[kernel_name] = uuid
    sources = {
        "mounts": plugin.parse_mounts(read(f"{stem}.mounts.txt")),
        "swaps": plugin.parse_swaps(read(f"{stem}.swaps.txt")),
        "datasets": plugin.parse_zfs(read(f"{stem}.zfs.txt")),
        "mapper_uuids": uuids,
        "ciphers": plugin.parse_ciphers(read(f"{stem}.dmsetup.txt")),
    }
    report = plugin.examine(devices, **{**sources, **changes})
    assert isinstance(report, dict)
    return report


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_volume_of_a_real_machine_is_told_with_its_encryption(
    plugin: ModuleType, read: Read, machines: list[str], scenario: str
) -> None:
    stems = [stem for stem in machines if stem.partition("-")[2] == scenario]
    assert stems
    for stem in stems:
        encrypted, expected = RECORDED_OTHERWISE.get(stem, SCENARIOS[scenario])
        report = examine(plugin, read, stem)
        assert rows(report) == expected, stem
        assert report["encrypted"] == encrypted, stem


@pytest.mark.parametrize("scenario", sorted(SCENARIOS.keys() - {"btrfs-encrypted"}))
def test_versions_of_lsblk_with_one_mount_point_a_device_tell_the_same(
    plugin: ModuleType, read: Read, machines: list[str], scenario: str
) -> None:
    for stem in (stem for stem in machines if stem.partition("-")[2] == scenario):
        encrypted, expected = RECORDED_OTHERWISE.get(stem, SCENARIOS[scenario])
        report = examine(plugin, read, stem, "lsblk-old.json")
        assert (rows(report), report["encrypted"]) == (expected, encrypted)


def test_every_machine_in_the_data_is_expected_somewhere(machines: list[str]) -> None:
    elsewhere = {"locked", "zfs"}
    assert {stem.partition("-")[2] for stem in machines} <= SCENARIOS.keys() | elsewhere


def test_a_locked_luks_disk_is_no_volume_and_an_unused_physical_volume_is_unknown(
    plugin: ModuleType, read: Read, machines: list[str]
) -> None:
    for stem in (stem for stem in machines if stem.endswith("-locked")):
        report = rows(examine(plugin, read, stem))
        assert "/dev/mapper/r / filesystem luks2" in report
        assert "/dev/sdb - filesystem unknown" in report
        assert not any(row.startswith("/dev/sda") for row in report)


def test_without_the_uuids_of_device_mapper_the_container_below_tells_the_method(
    plugin: ModuleType, read: Read
) -> None:
    report = examine(plugin, read, "debian12-luks2-partition-plain-swap", mapper_uuids={})
    assert rows(report) == SCENARIOS["luks2-partition-plain-swap"][1]


def test_dm_verity_is_not_taken_for_encryption_though_lsblk_calls_it_crypt(plugin: ModuleType, read: Read) -> None:
    devices = plugin.parse_lsblk(read("debian12-verity.lsblk.json"))
    assert any(device.name == "vroot" and device.type == "crypt" for device in devices.values())
    assert "/dev/mapper/vroot /opt filesystem none" in rows(examine(plugin, read, "debian12-verity"))


def test_a_cipher_that_encrypts_nothing_does_not_count(plugin: ModuleType, read: Read) -> None:
    report = examine(
        plugin, read, "debian12-luks2-partition-plain-swap", ciphers={"nvme0n1p3_crypt": "cipher_null-ecb"}
    )
    assert "/dev/mapper/nvme0n1p3_crypt / filesystem none" in rows(report)
    assert report["encrypted"] is False


def test_ciphers_are_read_from_dmsetup(plugin: ModuleType, read: Read) -> None:
    assert plugin.parse_ciphers(read("debian12-luks2-partition-plain-swap.dmsetup.txt")) == {
        "cryptswap": "aes-xts-plain64",
        "nvme0n1p3_crypt": "aes-xts-plain64",
    }


def test_zfs_encrypts_by_itself_or_by_what_its_pool_lies_on(plugin: ModuleType, read: Read) -> None:
    report = examine(plugin, read, "ubuntu24.04-zfs")
    assert rows(report) == [
        "/dev/nvme0n1p1 /boot/efi filesystem none boot",
        "bpool/BOOT/ubuntu_h1 /boot zfs none boot",
        "rpool/ROOT/ubuntu_h1 / zfs zfs",
        "rpool/USERDATA/home_x /home zfs zfs",
        "rpool/clear /srv zfs none",
        "rpool/vm - zfs zfs",
    ]
    assert report["encrypted"] is False


def test_the_boot_pool_of_zfs_does_not_make_a_machine_unencrypted(plugin: ModuleType, read: Read) -> None:
    datasets = [row for row in plugin.parse_zfs(read("ubuntu24.04-zfs.zfs.txt")) if row["name"] != "rpool/clear"]
    assert examine(plugin, read, "ubuntu24.04-zfs", datasets=datasets)["encrypted"] is True


def lsblk(*devices: dict[str, Any]) -> str:
    return json.dumps({"blockdevices": list(devices)})


def disk(kname: str, mountpoint: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": kname, "kname": kname, "type": "disk", "fstype": "ext4", "mountpoints": [mountpoint], **more}


def of(plugin: ModuleType, *devices: dict[str, Any], **sources: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"mounts": {}, "swaps": [], "datasets": [], "mapper_uuids": {}, "ciphers": {}}
    report = plugin.examine(plugin.parse_lsblk(lsblk(*devices)), **{**nothing, **sources})
    assert isinstance(report, dict)
    return report


def test_a_root_that_cannot_be_traced_to_a_device_leaves_the_verdict_open(plugin: ModuleType) -> None:
    report = of(plugin, disk("vda", "/etc/hosts"), mounts={"/": ("overlay", "overlay")})
    assert report["encrypted"] == "unknown"
    assert "overlay / filesystem unknown" in rows(report)


def test_what_is_removable_is_left_out_unless_the_system_runs_from_it(plugin: ModuleType) -> None:
    stick = disk("sdb", "/media/alice/STICK", rm=True)
    assert rows(of(plugin, disk("sda", "/"), stick)) == ["/dev/sda / filesystem none"]
    assert rows(of(plugin, disk("sdb", "/", tran="usb"))) == ["/dev/sdb / filesystem none removable"]


def test_mount_points_of_containers_and_snaps_do_not_show(plugin: ModuleType) -> None:
    places = ["/", "/var/lib/docker/overlay2/abc/merged", "/var/snap/firefox/common/host-hunspell", "/run/schroot/x"]
    report = of(plugin, disk("sda", mountpoints=places))
    assert rows(report) == ["/dev/sda / filesystem none"]


def test_mount_points_of_the_clients_own_sandbox_do_not_show(plugin: ModuleType) -> None:
    places = ["/", "/var/lib/penguindome/client", "/var/tmp", "[SWAP]"]
    devices = plugin.parse_lsblk(lsblk(disk("sda", mountpoints=places)))
    plugin.drop_own_mounts(devices, {"/": ("/dev/sda", "ext4"), "/home": ("/dev/sdb", "ext4")})
    assert devices["sda"].mountpoints == {"/", "[SWAP]"}


def test_a_swap_file_on_a_file_system_that_is_not_there_is_unknown(plugin: ModuleType) -> None:
    report = of(
        plugin, disk("sda", "/"), swaps=[("/x/swap file", "file")], mounts={"/x": ("nfs:/x", "nfs"), "/": ("", "")}
    )
    assert "/x/swap file - swap unknown" in rows(report)


def test_windows_beside_counts_by_its_own_encryption(plugin: ModuleType) -> None:
    windows = disk("sda1", fstype="BitLocker")
    recovery = disk("sda2", fstype="ntfs", parttype="de94bba4-06d1-4d40-a16a-bfd50179d6ac")
    assert rows(of(plugin, windows, recovery))[:2] == [
        "/dev/sda1 - filesystem bitlocker",
        "/dev/sda2 - filesystem none boot",
    ]


def test_names_with_spaces_are_read_from_mounts_and_swaps(plugin: ModuleType) -> None:
    assert plugin.parse_mounts("/dev/sda1 /a\\040b ext4 rw 0 0\n") == {"/a b": ("/dev/sda1", "ext4")}
    assert plugin.parse_swaps("Filename Type Size Used Priority\n/a\\040b file 1 0 -2\n") == [("/a b", "file")]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"blockdevices": [1]}', '{"blockdevices": [{"name": 1}]}', "[" * 99999]
)
def test_rubbish_is_not_taken_for_lsblk(plugin: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="not the output of lsblk"):
        plugin.parse_lsblk(text)


def test_the_report_does_not_depend_on_the_order_of_devices(plugin: ModuleType, read: Read) -> None:
    tree = json.loads(read("debian12-lvm-two-encrypted.lsblk.json"))
    there = examine(plugin, read, "debian12-lvm-two-encrypted")
    tree["blockdevices"].reverse()

    def read_reversed(name: str) -> str:
        return json.dumps(tree) if name.endswith("lsblk.json") else read(name)

    assert examine(plugin, read_reversed, "debian12-lvm-two-encrypted") == there
