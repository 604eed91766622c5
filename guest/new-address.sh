#!/bin/sh
# A network card has an address of its own; this asks for one of the network's.
exec udhcpc -i "$1" -q -n -t 5 -T 1 -s /etc/udhcpc.sh
