//! Disks, used by a real kernel. The file system is made and checked with the host's e2fsprogs.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use common::{Terminal, guesthouse, run};

/// Runs a program of the host's, also from where only root looks; its output if it succeeds.
fn host(program: &str, arguments: &[&str], image: &Path) -> Result<String, String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(arguments).arg(image).env("PATH", path).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}: install e2fsprogs"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn image(folder: &Path, name: &str, mib: u64) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

/// Runs a script in the default guest; its standard output.
fn guest(arguments: &[&str], script: &str) -> String {
    let arguments = [&["run"], arguments, &["--", "sh", "-ec", script]].concat();
    let output = guesthouse(&arguments).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stdout}{stderr}");
    stdout
}

#[test]
fn a_file_system_is_written_and_clean_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "ext4.raw", 32);
    host("mke2fs", &["-q", "-t", "ext4"], &image).unwrap();
    let disk = image.to_str().unwrap();
    let write = r#"
        mount /dev/vda /mnt
        head -c 3000000 /dev/urandom >/mnt/data
        mkdir /mnt/folder
        for i in $(seq 1 200); do echo $i >/mnt/folder/$i; done
        rm /mnt/folder/1*
        sync
        fstrim /mnt
        sha256sum </mnt/data
        umount /mnt
        cat /sys/block/vda/serial
    "#;
    let spec = format!("{disk},serial=guesthouse-1");
    let written = guest(&["--disk", &spec, "--cpus", "2", "--engine", "dbt"], write);
    assert!(written.contains("guesthouse-1"), "{written}");
    host("e2fsck", &["-fn"], &image).unwrap();
    let read =
        "mount -o ro /dev/vda /mnt; sha256sum </mnt/data; ls /mnt/folder | wc -l; cat /sys/block/vda/ro";
    let spec = format!("{disk},readonly");
    let read = guest(&["--disk", &spec, "--engine", "interp"], read);
    assert_eq!(read.lines().next(), written.lines().next());
    assert_eq!(read.lines().skip(1).collect::<Vec<_>>(), ["89", "1"]);
}

#[test]
fn errors_of_a_disk_reach_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let small = image(folder.path(), "small.raw", 1);
    let readonly = format!("{},readonly", image(folder.path(), "ro.raw", 1).display());
    let script = r#"
        ! dd if=/dev/zero of=/dev/vdb bs=4k count=1 2>/dev/null
        dd if=/dev/vda bs=1M 2>/dev/null | wc -c
        ! dd if=/dev/zero of=/dev/vda bs=4k seek=256 count=1 2>/dev/null
    "#;
    let out = guest(&["--disk", small.to_str().unwrap(), "--disk", &readonly], script);
    assert_eq!(out, "1048576\n");
}

#[test]
fn interrupts_come_by_the_pin_where_messages_are_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let disks = ["a", "b", "c"].map(|name| image(folder.path(), name, 1).to_str().unwrap().to_owned());
    let disks: Vec<_> = disks.iter().flat_map(|disk| ["--disk", disk]).collect();
    let script = r#"
        for disk in vda vdb vdc; do
            echo $disk | dd of=/dev/$disk conv=fsync 2>/dev/null
            head -c 3 /dev/$disk
        done
        grep -c IO-APIC.*fasteoi.*virtio /proc/interrupts
    "#;
    let out = guest(&[&disks[..], &["--append", "pci=nomsi"]].concat(), script);
    // Three disks, and what every machine has: random numbers, balloon, the agent's console.
    assert_eq!(out, "vdavdbvdc6\n");
}

#[test]
fn a_machine_without_pci_has_the_same_disks() {
    let folder = tempfile::tempdir().unwrap();
    let disks = ["a", "b"].map(|name| image(folder.path(), name, 1).to_str().unwrap().to_owned());
    let script = r#"
        echo two | dd of=/dev/vdb conv=fsync 2>/dev/null
        head -c 4 /dev/vdb
        ls /sys/bus/pci/devices | wc -l
        grep -c IO-APIC.*fasteoi.*virtio /proc/interrupts
        nproc
        # The host's time, by the clock.
        [ $(date +%Y) -ge 2024 ] && [ -e /sys/class/rtc/rtc0 ] && echo now
    "#;
    let arguments = ["--board", "microvm", "--cpus", "2", "--disk", &disks[0], "--disk", &disks[1]];
    // Two disks, and what every machine has: random numbers, balloon, the agent's console.
    assert_eq!(guest(&arguments, script), "two\n0\n5\n2\nnow\n");
    assert_eq!(std::fs::read(&disks[1]).unwrap()[..5], *b"two\n\0");
}

#[test]
fn a_disk_has_one_machine() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "a.raw", 1);
    let lock = std::fs::File::open(&image).unwrap();
    lock.lock().unwrap();
    let output = guesthouse(&["run", "--disk", image.to_str().unwrap(), "--", "true"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(&format!("is in use by process {}", std::process::id())), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Runs qemu-img in a folder.
fn qemu_img(folder: &Path, arguments: &str) -> String {
    let output = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.unwrap_or_else(|e| panic!("qemu-img: {e}: install qemu-utils"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments}: {text}");
    text
}

#[test]
fn a_chain_of_images_is_written_and_a_snapshot_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let raw = image(folder.path(), "raw", 64);
    host("mke2fs", &["-q", "-t", "ext4"], &raw).unwrap();
    qemu_img(folder.path(), "convert -c -f raw -O qcow2 raw base.qcow2");
    qemu_img(folder.path(), "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    let top = folder.path().join("top.qcow2");
    let disk = format!("{},backing=yes", top.display());
    let write = r#"
        mount -o discard /dev/vda /mnt
        head -c 9000000 /dev/urandom >/mnt/data
        head -c 3000000 /dev/urandom >/mnt/gone
        sync
        rm /mnt/gone
        sync
        fstrim /mnt
        sha256sum </mnt/data
        umount /mnt
    "#;
    let written = guest(&["--disk", &disk, "--cpus", "2"], write);
    qemu_img(folder.path(), "check -q top.qcow2");
    qemu_img(folder.path(), "convert -O raw top.qcow2 after");
    host("e2fsck", &["-fn"], &folder.path().join("after")).unwrap();
    let before = std::fs::read(&top).unwrap();
    let try_out = "mount /dev/vda /mnt; sha256sum </mnt/data; rm /mnt/data; sync; umount /mnt; mount /dev/vda /mnt; ls /mnt";
    let seen = guest(&["--disk", &disk, "--snapshot"], try_out);
    assert_eq!(seen.lines().next(), written.lines().next());
    assert!(!seen.contains("data"), "{seen}");
    assert!(std::fs::read(&top).unwrap() == before, "a snapshot was written");
}

#[test]
fn an_image_from_a_stranger_opens_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path(), "secret", 1);
    qemu_img(folder.path(), "create -q -f qcow2 -b secret -F raw top.qcow2");
    let top = folder.path().join("top.qcow2");
    let output = guesthouse(&["run", "--disk", top.to_str().unwrap(), "--", "true"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("'secret'") && stderr.contains("backing=yes"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_guest_cannot_make_its_raw_disk_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let disk = image(folder.path(), "a.raw", 1);
    let write = r"printf 'QFI\373\0\0\0\003' | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null || echo refused";
    let disk = disk.to_str().unwrap();
    assert_eq!(guest(&["--disk", disk], write), "refused\n");
    assert_eq!(guest(&["--disk", &format!("{disk},format=raw")], write), "");
    // Now that it is one, it is read only as what the user says.
    assert_eq!(guest(&["--disk", &format!("{disk},format=raw")], "wc -c </dev/vda"), "1048576\n");
}

/// A disk with a partition that holds the default guest as a distribution would install it: kernel, initrd, GRUB.
fn installed(folder: &Path) -> PathBuf {
    guest(&[], "true");
    let (_, guests, _) = run(&["guests", "--json"]);
    let guests: serde_json::Value = serde_json::from_str(&guests).unwrap();
    let entry = guests.as_array().unwrap().iter().find(|g| g["name"] == "debian-12").unwrap();
    let boot = folder.join("root/boot");
    std::fs::create_dir_all(boot.join("grub")).unwrap();
    for (field, name) in [("kernel", "vmlinuz-6.1"), ("initrd", "initrd.img-6.1")] {
        std::fs::copy(entry[field].as_str().unwrap(), boot.join(name)).unwrap();
    }
    let menu = "menuentry 'Debian' {\n linux /boot/vmlinuz-6.1 root=/dev/vda1 ro quiet from=grub\n initrd /boot/initrd.img-6.1\n}\n";
    std::fs::write(boot.join("grub/grub.cfg"), menu).unwrap();
    let part = image(folder, "part", 48);
    let root = folder.join("root");
    host("mke2fs", &["-q", "-t", "ext4", "-d", root.to_str().unwrap()], &part).unwrap();
    let mut disk = vec![0; 1 << 20];
    disk[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 128, 1, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(std::fs::read(part).unwrap());
    std::fs::write(folder.join("disk.raw"), disk).unwrap();
    qemu_img(folder, "convert -f raw -O qcow2 disk.raw disk.qcow2");
    folder.join("disk.qcow2")
}

#[test]
fn a_disk_with_a_system_on_it_boots() {
    let folder = tempfile::tempdir().unwrap();
    let disk = installed(folder.path());
    let mut terminal =
        Terminal::start(guesthouse(&["run", "--disk", disk.to_str().unwrap(), "--append", "from=user"]));
    // The shell asks the terminal where the cursor is, because nobody has told it the size.
    let (prompt, answer) = ("\x1b[6n", "\x1b[24;80R");
    let script = "cat /proc/cmdline; mount /dev/vda1 /mnt; ls /mnt/boot; \
                  sed -i s/from=grub/again=grub/ /mnt/boot/grub/grub.cfg; umount /mnt; reboot; sleep 60\r";
    terminal.expect(prompt);
    terminal.type_keys([answer, script].concat().as_bytes());
    terminal.expect("\nroot=/dev/vda1 ro quiet from=grub console=ttyS0,115200 from=user\r\n");
    terminal.expect("initrd.img-6.1");
    // It boots again from what is on the disk by then.
    terminal.expect("reboot: Restarting system");
    terminal.forget();
    terminal.expect(prompt);
    terminal.type_keys([answer, "cat /proc/cmdline; exit\r"].concat().as_bytes());
    terminal.expect("\nroot=/dev/vda1 ro quiet again=grub");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{screen}");
    // Whoever names a kernel or wants a command run means another system.
    assert_eq!(guest(&["--disk", disk.to_str().unwrap()], "grep -c from=grub /proc/cmdline || true"), "0\n");
}

/// A guest on a disk whose image cannot grow: a limit for files stands for a full file system. It ends with the test.
struct Full(Child);

impl Drop for Full {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

impl Full {
    /// Runs a script in the guest. Translated code is in a file as well, so it is interpreted.
    fn start(folder: &Path, script: &str) -> (Self, Lines<BufReader<ChildStderr>>) {
        qemu_img(folder, "create -q -f qcow2 a.qcow2 64M");
        let disk = format!("{},werror=stop", folder.join("a.qcow2").display());
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -S -f 65536; exec \"$@\"",
                "sh",
                env!("CARGO_BIN_EXE_guesthouse"),
            ])
            .args(["run", "--engine", "interp", "--disk", &disk, "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        (Self(child), stderr)
    }
}

/// Waits until a line has these words.
fn told(lines: &mut impl Iterator<Item = std::io::Result<String>>, words: &str) {
    let mut seen = Vec::new();
    for line in lines {
        let line = line.unwrap();
        if line.contains(words) {
            return;
        }
        seen.push(line);
    }
    panic!("no {words:?} in {seen:?}");
}

#[test]
fn a_guest_waits_for_room_on_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let script = "dd if=/dev/zero of=/dev/vda bs=1M count=44 conv=fsync 2>/dev/null && echo written";
    let (mut child, mut stderr) = Full::start(folder.path(), script);
    told(&mut stderr, "stands still");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.0.try_wait().unwrap().is_none());
    let unlimited = Rlimit { current: None, maximum: None };
    prlimit(Some(Pid::from_child(&child.0)), Resource::Fsize, unlimited).unwrap();
    told(&mut stderr, "goes on");
    let mut stdout = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(child.0.wait().unwrap().success() && stdout == "written\n", "{stdout}");
    qemu_img(folder.path(), "check -q a.qcow2");
}

#[test]
fn a_machine_that_waits_for_room_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut stderr) = Full::start(folder.path(), "dd if=/dev/zero of=/dev/vda bs=1M");
    told(&mut stderr, "stands still");
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    let code = child.0.wait().unwrap().code();
    assert_eq!(code, Some(143), "{:?}", stderr.collect::<Vec<_>>());
}
