#!/bin/busybox sh
# Process 1 of the default guest: mounts what programs expect, runs what the host asks for, powers off.
export PATH=/bin:/sbin HOME=/root TERM=linux PS1='root@guesthouse:\w\$ '
umask 022

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
echo guesthouse >/proc/sys/kernel/hostname
ip link set lo up 2>/dev/null
cd "$HOME"

# Modules, those for devices of a type if there is one. The first of these comes when the buses have been looked at.
load_drivers() {
    kinds=
    [ -e /etc/modules ] && while read -r wanted module; do
        if [ "$wanted" != - ]; then
            [ "$kinds" ] || for device in /sys/bus/virtio/devices/*/device; do
                read -r kind 2>/dev/null <"$device" && kinds="$kinds $kind "
            done
            case $kinds in *" $wanted "*) ;; *) continue ;; esac
        fi
        insmod "$module"
    done </etc/modules
}

# Drivers, if there is a virtio device besides the source of random numbers, which the kernel can do without.
for device in /sys/bus/pci/devices/*/modalias /sys/bus/acpi/devices/LNRO0005:01/modalias; do
    [ -e "$device" ] && read -r alias <"$device" || continue
    case $alias in
    pci:v00001AF4d00001044*) ;;
    pci:v00001AF4* | acpi:LNRO0005*) load_drivers; break ;;
    esac
done

# What the host asks for beside all else; without its port the agent would wait for nothing.
if [ -d /sys/class/virtio-ports ]; then
    guesthouse-agent </dev/null >/dev/null 2>&1 &
fi

# An address, if there is somebody who gives one.
for card in /sys/class/net/eth*; do
    [ -e "$card" ] && /etc/guesthouse/new-address "${card##*/}" >/dev/null 2>&1
done

# What a driver makes comes in its own time: repeats a command until it succeeds, for five seconds.
await() {
    tries=250
    until "$@"; do
        [ $tries -gt 0 ] || return
        tries=$((tries - 1))
        sleep 0.02
    done
}

# The ports that the host has given names.
link_port() {
    for port in /sys/class/virtio-ports/*; do
        read -r name 2>/dev/null <"$port/name" && [ "$name" = "$1" ] || continue
        ln -sf "../${port##*/}" "/dev/virtio-ports/$1"
        return
    done
    return 1
}
if [ -e /etc/guesthouse/ports ]; then
    mkdir -p /dev/virtio-ports
    while read -r name; do await link_port "$name"; done </etc/guesthouse/ports
fi

# The host's folders.
if [ -e /etc/guesthouse/shares ]; then
    while read -r tag mode; do
        mkdir -p "/mnt/$tag"
        mount -t virtiofs -o "$mode" "$tag" "/mnt/$tag"
    done </etc/guesthouse/shares
fi

line=/dev/ttyS0
# A virtio console that has a size (feature 0) is the user's terminal.
for device in /sys/bus/virtio/devices/*; do
    read -r kind 2>/dev/null <"$device/device" && [ "$kind" = 0x0003 ] && read -r features <"$device/features" || continue
    case $features in 1*) await [ -c /dev/hvc0 ] && line=/dev/hvc0 ;; esac
done
[ -c $line ] || line=/dev/console
# What the host says about the terminal: "rows columns name".
if read -r rows columns term 2>/dev/null </etc/guesthouse/terminal; then
    # A virtio console knows it, and better: it may be another one by now.
    [ $line = /dev/hvc0 ] || stty rows "$rows" cols "$columns" <$line
    export TERM="$term"
fi

# busybox's halt, poweroff and reboot tell process 1 by these signals. The shell notices them only while it
# waits for something in the background.
trap 'sync; poweroff -f' USR1 USR2
trap 'sync; reboot -f' TERM
if [ -e /etc/guesthouse/command ]; then
    guesthouse-line <$line >$line 2>&1 &
else
    echo "Type 'exit' to power off." >$line
    guesthouse-line sh -l <$line >$line 2>&1 &
fi
wait $!
sync
poweroff -f
