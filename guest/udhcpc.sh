#!/bin/sh
# What udhcpc has learned, put to use.
case $1 in
deconfig) ip link set "$interface" up ;;
bound | renew)
    ip addr flush dev "$interface" scope global 2>/dev/null
    ip addr add "$ip/$mask" dev "$interface"
    for address in $router; do ip route replace default via "$address" dev "$interface"; done
    for address in $dns; do echo "nameserver $address"; done >/etc/resolv.conf
    ;;
esac
