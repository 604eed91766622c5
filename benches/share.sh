# Work in a shared folder, which is the current one. $1: what; what is made before and what is measured are apart.
set -e
mark() { echo "@$1"; }
case $1 in
mount)
    for kind in 9p virtiofs; do
        # As large requests as either of them has.
        case $kind in 9p) options=trans=virtio,version=9p2000.L,msize=1048576 ;; *) options=rw ;; esac
        mount -t $kind -o $options share /mnt 2>/dev/null && break
    done
    # 5,000 small files in memory.
    for folder in $(seq 50); do
        mkdir -p /tmp/tree/$folder
        for file in $(seq 100); do
            echo "file $file in folder $folder of a tree that is copied, listed, read and removed" >/tmp/tree/$folder/$file
        done
    done
    ;;
storm)
    mark begin
    cp -r /tmp/tree tree
    find tree -type f -size +9k
    grep -rc 'file 77 in folder 7 ' tree >/tmp/found
    tar c tree >/tmp/tree.tar
    mkdir copy
    tar x -C copy -f /tmp/tree.tar
    rm -r tree copy
    ;;
git)
    export HOME=/tmp GIT_CONFIG_NOSYSTEM=1
    mark begin
    git clone -q --no-hardlinks -n repository.git work
    git -C work checkout -q main
    git -C work status --short
    git -C work log --oneline | wc -l >/tmp/found
    rm -rf work
    ;;
large)
    mark begin
    dd if=/dev/zero of=large bs=1M count=200 2>/dev/null
    dd if=large of=/dev/null bs=1M 2>/dev/null
    rm large
    ;;
esac
mark end
