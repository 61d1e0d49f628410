#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs suites of tests that are not ours. /bin/suites prepares what they need and names them:
#	suite NAME SECONDS PREPARATION PROGRAM [ARGUMENT...]
# Each line of theirs comes out whole and behind "# ", so that none is taken for the kernel's.

pipe=/tmp/pipe
mkfifo $pipe

# Pages of files in /tmp are never clean; those of a disk are. Without it no suite runs.
mkdir /disk
mke2fs /dev/ram1 >/dev/null && mount -t ext2 /dev/ram1 /disk || exit

# xtask stops a guest that says nothing; a suite may think for longer.
while :; do
	sleep 20
	echo "userfault: alive"
done 2>/dev/null &
heart=$!

# Ends what a suite left behind: it would hold the pipe open, and memory.
sweep() {
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		case " 1 $$ $heart $reader " in
		*" $pid "*) continue ;;
		esac
		# A thread of the kernel has no program.
		if [ -n "$(readlink "$dir/exe")" ]; then
			kill -9 "$pid" 2>/dev/null
		fi
	done
}

suite() {
	name=$1 limit=$2 before=$3
	shift 3
	# Huge pages must be there to be had, whatever ran before.
	sync
	echo 3 >/proc/sys/vm/drop_caches
	echo 1 >/proc/sys/vm/compact_memory
	mkdir -p "/tmp/$name"
	cd "/tmp/$name" || return
	echo "userfault: begin $name"
	sed 's/^/# /' <$pipe &
	reader=$!
	{
		eval "$before"
		timeout -k 5 "$limit" "$@"
	} >$pipe 2>&1 </dev/null
	status=$?
	# A sweep leaves what is forked meanwhile; what nothing kills is given up at last.
	for _ in $(seq 300); do
		sweep
		sleep 0.1
		kill -0 $reader 2>/dev/null || break
	done
	kill -9 $reader 2>/dev/null
	wait $reader
	echo "userfault: end $name $status"
	cd /
	rm -rf "/tmp/$name"
}

. /bin/suites
kill $heart
