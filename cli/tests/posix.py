# What POSIX, and Linux where POSIX leaves it open, says of files; run in a guest, in the folder $1. `$2`: the guest's root
# is an ordinary user on the host. Says what is not so.
import errno, os, stat, sys, time, fcntl, socket, threading

rootless = sys.argv[2:] == ["rootless"]
os.umask(0o022)
checks = []


def check(function):
    checks.append(function)
    return function


def for_root(function):
    """Needs a host that lets files be given away."""
    if not rootless:
        checks.append(function)
    return function


def fails(error, function, *arguments, **more):
    try:
        function(*arguments, **more)
    except OSError as e:
        assert e.errno == error, f"{errno.errorcode.get(e.errno)} in place of {errno.errorcode[error]}"
    else:
        raise AssertionError(f"no {errno.errorcode[error]}")


def write(name, data=b"", flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o644):
    fd = os.open(name, flags, mode)
    os.write(fd, data)
    os.close(fd)


def read(name):
    fd = os.open(name, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def as_user(uid, function):
    """Runs in a process of that user."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            function()
            code = 0
        except BaseException as e:
            print(f"  as {uid}: {e!r}")
        sys.stdout.flush()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, f"as user {uid}"


def mode(name):
    return stat.S_IMODE(os.lstat(name).st_mode)


@check
def create_excl():
    write("a", b"x")
    fails(errno.EEXIST, os.open, "a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.symlink("nowhere", "link")
    fails(errno.EEXIST, os.open, "link", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert not os.path.exists("nowhere")


@check
def create_through_link():
    os.symlink("target", "link")
    write("link", b"x")
    assert read("target") == b"x"


@check
def mode_and_umask():
    os.umask(0o027)
    write("a", mode=0o666)
    os.mkdir("d", 0o777)
    os.umask(0)
    write("b", mode=0o666)
    os.mkdir("e", 0o777)
    write("c", mode=0o400)
    os.umask(0o022)
    assert [mode(name) for name in "adbec"] == [0o640, 0o750, 0o666, 0o777, 0o400]


@check
def write_through_descriptor_of_read_only_file():
    fd = os.open("a", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    assert os.write(fd, b"data") == 4
    os.close(fd)
    assert read("a") == b"data" and mode("a") == 0o444


@check
def truncate():
    write("a", b"0123456789")
    os.truncate("a", 4)
    assert read("a") == b"0123"
    os.truncate("a", 8)
    assert read("a") == b"0123\0\0\0\0"
    write("a", b"z")
    assert os.stat("a").st_size == 1
    fd = os.open("a", os.O_RDWR)
    os.ftruncate(fd, 5000)
    assert os.fstat(fd).st_size == 5000
    os.close(fd)
    fails(errno.EISDIR, os.truncate, ".", 0)
    fails(errno.ENOENT, os.truncate, "none", 0)


@check
def append():
    write("a", b"one")
    fd = os.open("a", os.O_WRONLY | os.O_APPEND)
    other = os.open("a", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"two")
    os.write(other, b"three")
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"four")
    assert read("a") == b"onetwothreefour"
    os.close(fd)
    os.close(other)


@check
def holes():
    fd = os.open("a", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"end", 1 << 20)
    assert os.fstat(fd).st_size == (1 << 20) + 3
    assert os.pread(fd, 10, 500000) == bytes(10)
    assert os.lseek(fd, 0, os.SEEK_DATA) <= 1 << 20
    fails(errno.ENXIO, os.lseek, fd, 1 << 21, os.SEEK_DATA)
    os.close(fd)


@check
def read_and_write_of_the_wrong_kind():
    write("a", b"x")
    fd = os.open("a", os.O_RDONLY)
    fails(errno.EBADF, os.write, fd, b"x")
    os.close(fd)
    fd = os.open("a", os.O_WRONLY)
    fails(errno.EBADF, os.read, fd, 1)
    os.close(fd)
    fails(errno.EISDIR, os.open, ".", os.O_WRONLY)
    fails(errno.ENOTDIR, os.open, "a/b", os.O_RDONLY)
    fails(errno.ENOTDIR, os.open, "a", os.O_RDONLY | os.O_DIRECTORY)


@check
def unlink_open():
    fd = os.open("a", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"still")
    os.unlink("a")
    fails(errno.ENOENT, os.stat, "a")
    assert os.fstat(fd).st_nlink == 0
    os.write(fd, b" there")
    assert os.pread(fd, 100, 0) == b"still there"
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 3)
    assert os.fstat(fd).st_size == 3
    write("a", b"new")
    assert os.pread(fd, 100, 0) == b"sti" and read("a") == b"new"
    os.close(fd)


@check
def unlink_errors():
    os.mkdir("d")
    fails(errno.EISDIR, os.unlink, "d")
    fails(errno.ENOENT, os.unlink, "none")
    os.symlink("d", "link")
    os.unlink("link")
    assert os.path.isdir("d")


@check
def rmdir():
    os.mkdir("d")
    write("d/a")
    fails(errno.ENOTEMPTY, os.rmdir, "d")
    os.unlink("d/a")
    os.rmdir("d")
    write("a")
    fails(errno.ENOTDIR, os.rmdir, "a")
    fails(errno.ENOENT, os.rmdir, "none")
    os.mkdir("e")
    fails(errno.EINVAL, os.rmdir, "e/.")


@check
def rmdir_open():
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    fails(errno.ENOENT, os.open, "a", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)


@check
def mkdir():
    os.mkdir("d")
    fails(errno.EEXIST, os.mkdir, "d")
    fails(errno.ENOENT, os.mkdir, "none/d")
    write("a")
    fails(errno.ENOTDIR, os.mkdir, "a/d")
    os.symlink("nowhere", "link")
    fails(errno.EEXIST, os.mkdir, "link")


@check
def links_of_folders():
    before = os.stat(".").st_nlink
    for name in "abc":
        os.mkdir(name)
    if before > 1:  # else a file system that does not count
        assert os.stat(".").st_nlink == before + 3


@check
def rename_over_file():
    write("a", b"a")
    write("b", b"b")
    fd = os.open("b", os.O_RDONLY)
    node = os.stat("a").st_ino
    os.rename("a", "b")
    assert read("b") == b"a" and os.stat("b").st_ino == node
    assert os.read(fd, 10) == b"b" and os.fstat(fd).st_nlink == 0
    fails(errno.ENOENT, os.stat, "a")
    os.close(fd)


@check
def rename_folders():
    os.makedirs("a/b")
    os.mkdir("empty")
    os.mkdir("full")
    write("full/x")
    write("file")
    fails(errno.ENOTEMPTY, os.rename, "a", "full")
    fails(errno.ENOTDIR, os.rename, "a", "file")
    fails(errno.EISDIR, os.rename, "file", "empty")
    fails(errno.EINVAL, os.rename, "a", "a/b/c")
    os.rename("a", "empty")
    assert os.listdir("empty") == ["b"]
    fails(errno.ENOENT, os.rename, "none", "x")


@check
def rename_open_and_used():
    os.mkdir("d")
    fd = os.open("d/a", os.O_RDWR | os.O_CREAT)
    os.rename("d", "e")
    os.write(fd, b"x")
    assert read("e/a") == b"x"
    os.rename("e/a", "b")
    os.write(fd, b"y")
    assert read("b") == b"xy"
    folder = os.open("e", os.O_RDONLY)
    os.rename("e", "f")
    write_fd = os.open("in", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.close(write_fd)
    assert os.path.exists("f/in")
    os.close(folder)
    os.close(fd)


@check
def rename_to_itself():
    write("a", b"x")
    os.link("a", "b")
    os.rename("a", "a")
    os.rename("a", "b")  # the same file: nothing happens
    assert sorted(os.listdir(".")) == ["a", "b"]


@check
def hard_links():
    write("a", b"x")
    os.link("a", "b")
    assert os.stat("a").st_nlink == 2 and os.stat("a").st_ino == os.stat("b").st_ino
    write("b", b"yy")
    assert read("a") == b"yy" and os.stat("a").st_size == 2
    os.unlink("a")
    assert os.stat("b").st_nlink == 1 and read("b") == b"yy"
    os.mkdir("d")
    fails(errno.EPERM, os.link, "d", "e")
    write("c")
    fails(errno.EEXIST, os.link, "b", "c")
    fails(errno.ENOENT, os.link, "none", "x")


@check
def hard_link_of_link():
    os.symlink("nowhere", "a")
    os.link("a", "b", follow_symlinks=False)
    assert os.readlink("b") == "nowhere" and os.lstat("a").st_nlink == 2


@check
def symbolic_links():
    target = "t" * 1000
    os.symlink(target, "long")
    assert os.readlink("long") == target and os.lstat("long").st_size == 1000
    fails(errno.EEXIST, os.symlink, "x", "long")
    write("a")
    fails(errno.EINVAL, os.readlink, "a")
    os.symlink("a", "link")
    fails(errno.ELOOP, os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)
    os.symlink("one", "two")
    os.symlink("two", "one")
    fails(errno.ELOOP, os.stat, "one")
    fails(errno.ENOENT, os.symlink, "", "empty")


@check
def long_names():
    name = "n" * 255
    write(name, b"x")
    assert read(name) == b"x" and name in os.listdir(".")
    fails(errno.ENAMETOOLONG, write, "n" * 256)
    fails(errno.ENAMETOOLONG, os.mkdir, "n" * 256)
    fails(errno.ENAMETOOLONG, os.stat, "n" * 256)
    fails(errno.ENAMETOOLONG, os.rename, name, "n" * 256)


@check
def odd_names():
    names = [b"\n", b" ", b"\xff\xfe", "\u00e4".encode(), b"-rf", b"a\\b", b"*", b"..."]
    for name in names:
        write(name, name)
    assert sorted(os.listdir(b".")) == sorted(names)
    assert all(read(name) == name for name in names)


@check
def deep_folders():
    top = os.getcwd()
    for _ in range(60):
        os.mkdir("deep" * 20)
        os.chdir("deep" * 20)
    write("a", b"x")
    assert read("a") == b"x"
    os.chdir(top)


@check
def modification_times():
    write("a", b"x")
    os.utime("a", (1, 1))
    before = os.stat("a")
    write("a", b"y", os.O_WRONLY)
    assert os.stat("a").st_mtime > 1 and os.stat("a").st_ctime >= before.st_ctime
    os.mkdir("d")
    for change in (
        lambda: write("d/a"),
        lambda: os.rename("d/a", "d/b"),
        lambda: os.link("a", "d/c"),
        lambda: os.unlink("d/c"),
        lambda: os.symlink("x", "d/e"),
        lambda: os.mkdir("d/f"),
        lambda: os.rmdir("d/f"),
    ):
        os.utime("d", (1, 1))
        change()
        time.sleep(1.1)  # what the guest may believe
        assert os.stat("d").st_mtime > 1


@check
def change_times():
    write("a", b"x")
    os.mkdir("d")
    for change in (
        lambda: os.chmod("a", 0o600),
        lambda: os.link("a", "b"),
        lambda: os.rename("b", "c"),
        lambda: os.unlink("c"),
        lambda: os.truncate("a", 5),
        lambda: os.utime("a", (5, 5)),
    ):
        before = os.stat("a").st_ctime_ns
        time.sleep(0.02)
        change()
        time.sleep(1.1)
        assert os.stat("a").st_ctime_ns > before


@check
def times_are_kept():
    write("a")
    os.utime("a", ns=(123456789012345678, 987654321098765432))
    found = os.stat("a")
    assert (found.st_atime_ns, found.st_mtime_ns) == (123456789012345678, 987654321098765432)
    os.symlink("a", "link")
    os.utime("link", (7, 7), follow_symlinks=False)
    assert os.lstat("link").st_mtime == 7 and os.stat("a").st_mtime > 7
    fd = os.open("a", os.O_WRONLY)
    os.utime(fd, (9, 9))
    os.close(fd)
    assert os.stat("a").st_mtime == 9


@check
def truncate_to_the_same_size():
    write("a", b"xyz")
    os.utime("a", (1, 1))
    fd = os.open("a", os.O_WRONLY)
    os.ftruncate(fd, 3)
    os.close(fd)
    assert os.stat("a").st_mtime > 1


@check
def permissions():
    write("a", b"x", mode=0o600)
    write("b", b"x", mode=0o644)
    os.mkdir("closed", 0o700)
    os.mkdir("open", 0o777)
    os.chmod("open", 0o777)

    def user():
        fails(errno.EACCES, os.open, "a", os.O_RDONLY)
        assert read("b") == b"x"
        fails(errno.EACCES, os.open, "b", os.O_WRONLY)
        fails(errno.EACCES, os.listdir, "closed")
        fails(errno.EACCES, os.stat, "closed/x")
        fails(errno.EPERM, os.chmod, "b", 0o777)
        fails(errno.EPERM, os.chown, "b", 1000, 1000)
        fails(errno.EACCES, write, "new")
        fails(errno.EACCES, os.unlink, "b")
        write("open/new", b"mine")

    as_user(1000, user)
    assert read("open/new") == b"mine"


@for_root
def owners():
    os.chmod(".", 0o777)

    def user():
        write("a", mode=0o600)
        os.mkdir("d")
        os.symlink("x", "link")
        os.mkfifo("fifo")
        assert os.stat("a").st_uid == 1000 and os.stat("a").st_gid == 1000
        os.chmod("a", 0o640)
        fails(errno.EPERM, os.chown, "a", 0, -1)
        fails(errno.EPERM, os.chown, "a", -1, 5)
        os.utime("a", (1, 1))

    as_user(1000, user)
    assert [os.lstat(name).st_uid for name in ("a", "d", "link", "fifo")] == [1000] * 4

    def other():
        fails(errno.EACCES, os.open, "a", os.O_RDONLY)
        fails(errno.EPERM, os.utime, "a", (1, 1))
        fails(errno.EPERM, os.chmod, "a", 0o777)

    as_user(1001, other)
    os.chown("a", 1001, 7)
    assert (os.stat("a").st_uid, os.stat("a").st_gid) == (1001, 7)
    os.chown("a", 1002, -1)
    assert (os.stat("a").st_uid, os.stat("a").st_gid) == (1002, 7)
    os.chown("link", 3, 3, follow_symlinks=False)
    assert os.lstat("link").st_uid == 3


@for_root
def sticky_folders():
    os.chmod(".", 0o777)
    os.mkdir("tmp")
    os.chmod("tmp", 0o1777)
    as_user(1000, lambda: write("tmp/a"))

    def other():
        fails(errno.EPERM, os.unlink, "tmp/a")
        fails(errno.EPERM, os.rename, "tmp/a", "tmp/b")
        write("tmp/c")
        os.unlink("tmp/c")

    as_user(1001, other)
    as_user(1000, lambda: os.unlink("tmp/a"))


@for_root
def folders_of_a_group():
    os.mkdir("d")
    os.chown("d", 0, 55)
    os.chmod("d", 0o2777)

    def user():
        write("d/a")
        os.mkdir("d/e")

    as_user(1000, user)
    assert os.stat("d/a").st_gid == 55 and os.stat("d/e").st_gid == 55
    assert mode("d/e") & 0o2000


@check
def set_id_bits():
    write("a", mode=0o755)
    fails(errno.EPERM, os.chmod, "a", 0o4755)
    fails(errno.EPERM, os.chmod, "a", 0o2755)
    os.mkdir("d")
    os.chmod("d", 0o3755)
    assert mode("d") == 0o3755


@check
def special_files():
    os.mkfifo("fifo", 0o640)
    assert stat.S_ISFIFO(os.stat("fifo").st_mode) and mode("fifo") == 0o640
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.close()
    listener.close()
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    fails(errno.EPERM, os.mknod, "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


@check
def lists():
    names = sorted(f"name-{i:04}" for i in range(1500))
    for name in names:
        write(name)
    assert sorted(os.listdir(".")) == names
    kinds = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(".")}
    assert all(kinds.values()) and len(kinds) == 1500


@check
def lists_while_they_change():
    for i in range(600):
        write(f"old-{i}")
    seen = []
    for number, entry in enumerate(os.scandir(".")):
        seen.append(entry.name)
        if number < 300:
            write(f"new-{number}")
            if entry.name.startswith("old-") and number % 3 == 0:
                os.unlink(entry.name)
    # What was there all the time comes once.
    assert len(seen) == len(set(seen))
    assert all(name in seen for name in os.listdir(".") if name.startswith("old-"))
    for entry in os.scandir("."):
        os.unlink(entry.name)
    assert os.listdir(".") == []


@check
def locks():
    one, two = (os.open("a", os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(one, fcntl.LOCK_EX)
    fails(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_UN)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
    child = os.fork()
    if child == 0:
        fd = os.open("a", os.O_RDWR)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
            os._exit(1)
        except OSError:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(one)
    os.close(two)


@check
def space():
    fd = os.open("a", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 100000)
    assert os.fstat(fd).st_size == 100000
    os.fsync(fd)
    os.fdatasync(fd)
    write("b", b"copied" * 1000)
    source = os.open("b", os.O_RDONLY)
    assert os.copy_file_range(source, fd, 6000, 0, 50) == 6000
    assert os.pread(fd, 6, 50) == b"copied"
    os.close(source)
    os.close(fd)
    found = os.statvfs(".")
    assert found.f_blocks > found.f_bfree > 0 and found.f_namemax >= 255
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


@check
def large_writes():
    data = os.urandom(1 << 20) * 5
    fd = os.open("a", os.O_RDWR | os.O_CREAT)
    assert os.write(fd, data) == len(data)
    assert b"".join(os.pread(fd, 1 << 20, at) for at in range(0, len(data), 1 << 20)) == data
    assert os.pwrite(fd, b"x" * 4097, 4095) == 4097
    assert os.pread(fd, 3, 4094)[1:] == b"xx"
    os.close(fd)


@check
def many_at_once():
    def work(number):
        for i in range(50):
            name = f"{number}-{i}"
            write(name, name.encode())
            os.rename(name, name + "-moved")
            assert read(name + "-moved") == name.encode()
            os.unlink(name + "-moved")

    failed = []

    def guarded(number):
        try:
            work(number)
        except BaseException as e:
            failed.append(repr(e))

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed, failed
    assert os.listdir(".") == []


@check
def many_open():
    fds = [os.open(f"f{i}", os.O_RDWR | os.O_CREAT) for i in range(300)]
    for i, fd in enumerate(fds):
        os.write(fd, str(i).encode())
        os.unlink(f"f{i}")
    assert all(os.pread(fd, 9, 0) == str(i).encode() for i, fd in enumerate(fds))
    [os.close(fd) for fd in fds]


@check
def execution():
    write("script", b"#!/bin/sh\nexit 7\n", mode=0o755)
    assert os.WEXITSTATUS(os.system("./script")) == 7
    os.chmod("script", 0o644)
    assert os.WEXITSTATUS(os.system("./script 2>/dev/null")) == 126


bad = 0
top = sys.argv[1]
for function in checks:
    name = function.__name__
    folder = os.path.join(top, name)
    try:
        os.mkdir(folder)
        os.chmod(top, 0o755)
        os.chdir(folder)
        function()
    except BaseException as e:
        bad += 1
        line = e.__traceback__
        while line.tb_next and line.tb_next.tb_frame.f_code.co_filename == __file__:
            line = line.tb_next
        print(f"{name}, line {line.tb_lineno}: {e!r}", flush=True)
    os.chdir("/")
print(f"{len(checks)} checks, {bad} bad")
