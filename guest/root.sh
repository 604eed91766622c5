# Makes an installed system a guest, and an image of it. Run by mmdebstrap, which calls the system's folder $1, maybe in a
# user namespace: the image is put into the folder, to be copied out by the user's own rights.
set -e
root=$1
echo guesthouse >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 guesthouse\n::1 localhost\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
echo LANG=C.UTF-8 >"$root/etc/default/locale"

# The console is its owner's: root has no password there. By ssh only the keys of whoever built the image count.
chroot "$root" passwd -q -d root
mkdir -m 700 -p "$root/root/.ssh"
printf '%s' "$keys" >"$root/root/.ssh/authorized_keys"
# A server's keys are made when somebody first asks for them.
rm -f "$root"/etc/ssh/ssh_host_*
mkdir -p "$root/etc/systemd/system/ssh.service.d"
cat >"$root/etc/systemd/system/ssh.service.d/keys.conf" <<'END'
[Service]
ExecStartPre=
ExecStartPre=-/bin/sh -c '[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key'
END
echo 'HostKey /etc/ssh/ssh_host_ed25519_key' >"$root/etc/ssh/sshd_config.d/guesthouse.conf"

# The host's commands (exec, cp, stop) reach the system by its agent.
cat >"$root/etc/systemd/system/guesthouse-agent.service" <<'END'
[Unit]
Description=Guesthouse agent

[Service]
ExecStart=/usr/local/sbin/guesthouse-agent
Restart=on-failure
RestartSec=5
KillMode=process

[Install]
WantedBy=multi-user.target
END
chroot "$root" systemctl -q enable guesthouse-agent.service

# Any network card asks for an address; nothing waits for one.
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
chroot "$root" systemctl -q disable ssh.service
chroot "$root" systemctl -q enable ssh.socket systemd-networkd systemd-resolved
chroot "$root" systemctl -q mask systemd-networkd-wait-online e2scrub_reap.service
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/man/*
chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' >"$root.packages"

# A view without the kernel's file systems, which are mounted in the folder.
mkdir "$root.view"
mount --bind "$root" "$root.view"
size=$(du -sk --apparent-size "$root.view" | cut -f1)
mke2fs -q -t ext4 -L guesthouse -d "$root.view" "$root.img" $((size + size / 4 + 65536))k
umount "$root.view"
rmdir "$root.view"
mv "$root.img" "$root/image"
mv "$root.packages" "$root/packages"
