#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What make check-deb runs in the booted Debian, as a service: in TAP, whether the kernel that was
# installed is what a virtual machine and systemd ask for. $1 is its release, $2 how many MiB the test
# program moves. Lines that begin with "userfault:" are for xtask.

release=$1 mib=$2

# What the kernel only notes would come into the middle of a line.
dmesg -n 5
udevadm settle --timeout=120

number=0
check() {
	number=$((number + 1))
	name=$1
	shift
	if "$@"; then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
	fi
}

# Whether each of these modules is in, without that anybody asked for it by its name.
loaded() {
	for module; do
		grep -q "^$module " /proc/modules || { echo "# $module is not loaded"; return 1; }
	done
}

root_is() {
	[ "$(findmnt -no FSTYPE /)" = "$1" ] && [ "$(findmnt -no SOURCE /)" = "$2" ]
}

none_failed() {
	if failed=$(systemctl list-units --state=failed --plain --no-legend) && [ -z "$failed" ]; then
		return 0
	fi
	echo "# systemctl: $failed"
	return 1
}

# Limits by cgroups, namespaces, and a filter of system calls, as services have them.
service() {
	systemd-run --quiet --wait -p MemoryMax=64M -p TasksMax=9 -p CPUQuota=50% -p IPAddressDeny=any \
		-p PrivateUsers=yes -p PrivateNetwork=yes -p PrivateTmp=yes -p PrivateDevices=yes \
		-p ProtectSystem=strict -p SystemCallFilter=@system-service true
}

overlay() {
	mkdir -p /run/overlay/lower /run/overlay/upper /run/overlay/work /run/overlay/merged
	echo lower >/run/overlay/lower/file
	mount -t overlay overlay /run/overlay/merged -o \
		lowerdir=/run/overlay/lower,upperdir=/run/overlay/upper,workdir=/run/overlay/work || return
	echo upper >>/run/overlay/merged/file
	[ "$(wc -l </run/overlay/upper/file) $(wc -l </run/overlay/lower/file)" = "2 1" ]
}

shared() {
	mkdir -p /run/share
	mount -t 9p -o trans=virtio,ro share /run/share && ls /run/share/linux-image-"$release"_*.deb
}

program() {
	{ remap_anon_pages "$mib"; echo "status $?"; } 2>&1 | tee /run/said
	grep -qx "remap_anon_pages functions correctly" /run/said && grep -qx "status 0" /run/said
}

echo "userfault: begin debian"
echo "1..11"
check "the kernel is the package's" [ "$(uname -r)" = "$release" ]
check "the initrd brought the disk and its file system" loaded virtio_blk ext4
check "the root is the disk" root_is ext4 /dev/vda
check "udev found the drivers of the other devices" \
	loaded virtio_net virtio_balloon virtio_rng virtio_scsi virtio_console
check "the machine says what it is" grep -q . /sys/class/dmi/id/sys_vendor
check "more modules load" modprobe -a virtiofs vfat isofs squashfs dm_mod nft_masq br_netfilter veth tun
check "systemd started everything" none_failed
check "a service in namespaces, with limits" service
check "overlay" overlay
check "9p: a folder of the host" shared
check "the test program" program
echo "userfault: end debian 0"
echo "userfault: tainted $(cat /proc/sys/kernel/tainted)"
echo "userfault: done"
systemctl --no-block poweroff
