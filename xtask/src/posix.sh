# In the guest: the users that pjdfstest switches to, then its tests, below the shared folder.
for entry in nobody:65534 tests:1001 pjdfstest:1002; do
    user=${entry%:*}
    id=${entry#*:}
    sed -i "/^$user:/d" /etc/passwd /etc/group
    echo "$user:x:$id:$id::/:/bin/sh" >>/etc/passwd
    echo "$user:x:$id:" >>/etc/group
done
cp /mnt/share/pjdfstest /tmp
cat >/tmp/pjdfstest.toml <<END
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}
stat_st_birthtime = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nobody"], ["tests", "tests"], ["pjdfstest", "pjdfstest"]]
END
mkdir /mnt/share/top
cd /tmp && ./pjdfstest -c /tmp/pjdfstest.toml -p /mnt/share/top "$@"
