//! Disks as distributions lay them out, made with the host's e2fsprogs.

use std::fs::{File, create_dir_all, write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;

struct Image(File);

impl ReadAt for Image {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(to, offset)
    }
}

/// Bytes of a file system with these files.
fn ext4(files: &[(&str, &[u8])]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("root"), folder.path().join("image"));
    create_dir_all(&root).unwrap();
    for (path, content) in files {
        let path = root.join(path.trim_start_matches('/'));
        create_dir_all(path.parent().unwrap()).unwrap();
        write(path, content).unwrap();
    }
    let tools = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([root.as_path(), &image, Path::new("8M")])
        .env("PATH", tools)
        .output()
        .unwrap_or_else(|e| panic!("mke2fs: {e}: install e2fsprogs"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(image).unwrap()
}

fn disk(content: &[u8]) -> Arc<dyn ReadAt> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    Arc::new(Image(file))
}

/// Path of the kernel, options, and the content of kernel and initrd.
type Found = (String, String, Vec<u8>, Option<Vec<u8>>);

fn found(content: &[u8]) -> Option<Found> {
    let system = System::find(&disk(content), "vda").unwrap()?;
    let loaded = system.load().unwrap();
    Some((system.kernel.clone(), system.options.clone(), loaded.kernel, loaded.initrd))
}

const MIB: usize = 1 << 20;

/// A GPT with partitions of these numbers, one MiB apart.
fn gpt(partitions: &[(usize, &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; MIB];
    disk[450] = 0xee;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512..520].copy_from_slice(b"EFI PART");
    for (at, value) in [(72, 2u32), (80, 128), (84, 128)] {
        disk[512 + at..512 + at + 4].copy_from_slice(&value.to_le_bytes());
    }
    for (number, content) in partitions {
        let (at, first) = (1024 + (number - 1) * 128, disk.len() / 512);
        disk[at] = 1;
        disk[at + 32..at + 40].copy_from_slice(&(first as u64).to_le_bytes());
        disk[at + 40..at + 48].copy_from_slice(&((first + content.len() / 512 - 1) as u64).to_le_bytes());
        disk.extend_from_slice(content);
    }
    disk
}

const DEBIAN: &str = r#"
set default="0"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
fi
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-1' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	search --no-floppy --fs-uuid --set=root 1-2-3
	echo	'Loading Linux 6.1 ...'
	linux	/boot/vmlinuz-6.1 root=UUID=1-2-3 ro console=tty0 console=ttyS0,115200 $vt_handoff
	initrd	/boot/initrd.img-6.1
}
submenu 'Advanced options' {
	menuentry 'older' --id old {
		linux	/boot/vmlinuz-5.10 root=/dev/sda1
	}
	menuentry 'rescue' {
		linux	/boot/vmlinuz-1
		initrd	/boot/initrd.img-1
	}
}
"#;

#[test]
fn debian_is_found_on_its_first_partition() {
    let files: [(&str, &[u8]); 4] = [
        ("/boot/grub/grub.cfg", DEBIAN.as_bytes()),
        ("/boot/vmlinuz-6.1", b"kernel"),
        ("/boot/initrd.img-6.1", b"initrd"),
        ("/boot/vmlinuz-9", b"not this"),
    ];
    let root = ext4(&files);
    let expected = Some((
        "/boot/vmlinuz-6.1".to_owned(),
        "root=UUID=1-2-3 ro console=tty0 console=ttyS0,115200".to_owned(),
        b"kernel".to_vec(),
        Some(b"initrd".to_vec()),
    ));
    assert_eq!(found(&gpt(&[(14, &[0; 4096]), (15, &[7; 4096]), (1, &root)])), expected);
    assert_eq!(found(&root), expected);
    // The same in a logical partition of an MBR.
    let mut disk = vec![0; MIB];
    let entry =
        |kind: u8, first: u32, count: u32| [[0, 0, 0, 0, kind, 0, 0, 0], to_bytes(first, count)].concat();
    disk[446..462].copy_from_slice(&entry(5, 1, 1 << 16));
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512 + 446..512 + 462].copy_from_slice(&entry(0x83, 2047, root.len() as u32 / 512));
    disk[1022..1024].copy_from_slice(&[0x55, 0xaa]);
    disk.extend_from_slice(&root);
    assert_eq!(found(&disk), expected);
}

fn to_bytes(first: u32, count: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(count) << 32).to_le_bytes()
}

#[test]
fn a_boot_partition_of_its_own_and_an_entry_without_initrd_first() {
    let ubuntu = br#"
menuentry 'Ubuntu' --class ubuntu $menuentry_id_option 'x' {
	if [ "${initrdfail}" = 1 ]; then
	  linux	/vmlinuz-6.8.0-31-generic root=LABEL=cloudimg-rootfs ro console=ttyS0
	  initrd	/initrd.img-6.8.0-31-generic
	else
	  linux	/vmlinuz-6.8.0-31-generic root=PARTUUID=1 ro panic=-1
	fi
}"#;
    let boot: [(&str, &[u8]); 3] = [
        ("grub/grub.cfg", ubuntu),
        ("vmlinuz-6.8.0-31-generic", b"k"),
        ("initrd.img-6.8.0-31-generic", b"i"),
    ];
    let found = found(&gpt(&[(1, &ext4(&[("etc/fstab", b"")])), (16, &ext4(&boot))])).unwrap();
    assert_eq!(found.0, "/vmlinuz-6.8.0-31-generic");
    assert_eq!(
        (found.1.as_str(), found.3),
        ("root=LABEL=cloudimg-rootfs ro console=ttyS0", Some(b"i".to_vec()))
    );
}

#[test]
fn loader_entries_go_by_version() {
    let entry = |version: &str| {
        format!(
            "title Fedora\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /a.img $tuned_initrd\ninitrd /b.img\noptions root=UUID=1 $kernelopts ro\n"
        )
    };
    let (old, new) = (entry("6.9.1"), entry("6.10.0"));
    let files: [(&str, &[u8]); 5] = [
        ("loader/entries/a.conf", old.as_bytes()),
        ("loader/entries/b.conf", new.as_bytes()),
        ("vmlinuz-6.10.0", b"k"),
        ("a.img", b"aaaaa"),
        ("b.img", b"b"),
    ];
    let found = found(&ext4(&files)).unwrap();
    assert_eq!((found.0.as_str(), found.1.as_str()), ("/vmlinuz-6.10.0", "root=UUID=1 ro"));
    assert_eq!(found.3.unwrap(), b"aaaaa\0\0\0b");
}

#[test]
fn without_a_loader_the_newest_kernel_is_taken() {
    let files: [(&str, &[u8]); 4] = [
        ("boot/vmlinuz-6.1.0-9-amd64", b"old"),
        ("boot/vmlinuz-6.1.0-10-amd64", b"new"),
        ("boot/initrd.img-6.1.0-10-amd64", b"i"),
        ("boot/initrd.img-6.1.0-9-amd64", b"j"),
    ];
    let root = ext4(&files);
    let found_whole = found(&root).unwrap();
    assert_eq!((&found_whole.2[..], found_whole.1.as_str()), (&b"new"[..], "root=/dev/vda ro"));
    assert_eq!(found(&gpt(&[(2, &root)])).unwrap().1, "root=/dev/vda2 ro");
}

#[test]
fn menus_have_defaults() {
    let choice =
        |set: &str| grub::parse(&DEBIAN.replacen("default=\"0\"", &format!("default=\"{set}\""), 1)).unwrap();
    assert_eq!(choice("1").kernel, "/boot/vmlinuz-5.10");
    assert!(choice("1").initrds.is_empty(), "another entry's");
    assert_eq!(choice("gnulinux-simple-1").kernel, "/boot/vmlinuz-6.1");
    assert_eq!(choice("Advanced options>rescue").kernel, "/boot/vmlinuz-5.10");
    assert_eq!(choice("7").kernel, "/boot/vmlinuz-6.1");
    assert_eq!(grub::parse("menuentry x {\n}\n"), None);
    assert_eq!(grub::words(r#"a 'b c'"d\"e" f\ g # h"#), ["a", "b cd\"e", "f g"]);
}

#[test]
fn disks_without_a_system_have_none_and_what_is_missing_is_named() {
    for content in
        [vec![], vec![0; 512], vec![0; MIB], vec![0xff; MIB], gpt(&[(1, &[1; 8192])]), ext4(&[("a", b"b")])]
    {
        assert!(found(&content).is_none());
    }
    let gone = ext4(&[("boot/grub/grub.cfg", DEBIAN.as_bytes())]);
    let error = System::find(&disk(&gone), "vda").unwrap().unwrap().load().err().unwrap().to_string();
    assert!(error.contains("/boot/") && !error.contains('\n'), "{error}");
}
