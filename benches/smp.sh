# Four pipelines at once, then what each of them found, in order.
# $1: a busybox; $2: a folder to write to. No other program is used, so that host and guest must agree.
bb=$1 out=$2

work() {
    "$bb" seq "$1" 4 12000 |
        "$bb" awk '{ x = (x * 69069 + $1) % 65536; print x, $1; n[x % 97]++ } END { for (i = 0; i < 97; i++) print i, n[i] }' |
        "$bb" sort -n |
        "$bb" gzip -c |
        "$bb" tee "$out/packed.$1" |
        "$bb" gunzip -c |
        "$bb" md5sum >"$out/sum.$1"
    "$bb" sha256sum <"$out/packed.$1" >>"$out/sum.$1"
}

for job in 1 2 3 4; do
    work $job &
done
wait
"$bb" cat "$out/sum.1" "$out/sum.2" "$out/sum.3" "$out/sum.4" | "$bb" sed 's/^/@sum /'
echo "@done"
