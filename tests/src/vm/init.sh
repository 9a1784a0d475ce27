#!/bin/busybox sh
# First program of the guest: the host's root, read-only, with a layer of memory on top, and the
# directory that guest and host share. Then the agent.
busybox=/bin/busybox
$busybox mkdir -p /proc /sys /dev /lower /upper /new
$busybox mount -t proc proc /proc
$busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1 </dev/null
fail() {
    echo "guest: $1"
    # A first program that ends is a panic, and that ends the machine.
    exit 1
}
for module in /modules/*; do
    $busybox insmod "$module" || fail "cannot load $module"
done
options=trans=virtio,version=9p2000.L,msize=262144
$busybox mount -t 9p -o "ro,cache=loose,$options" root /lower || fail "cannot mount the host's root"
$busybox mount -t tmpfs upper /upper
$busybox mkdir /upper/data /upper/work
$busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /new ||
    fail "cannot lay memory over the host's root"
$busybox mount --move /proc /new/proc
$busybox mount --move /dev /new/dev
$busybox mount -t sysfs sys /new/sys
# Nothing of the host's is running here.
$busybox mount -t tmpfs run /new/run
$busybox mkdir /new/run/exchange
$busybox mount -t 9p -o "cache=none,$options" exchange /new/run/exchange ||
    fail "cannot mount the shared directory"
exec $busybox switch_root /new /bin/sh /run/exchange/agent.sh
