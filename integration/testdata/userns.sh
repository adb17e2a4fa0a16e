#!/bin/sh
# Runs a program as root of a user namespace, with namespaces for networks and mounts that belong to it: there an ordinary
# user can do most of what root can. The other user IDs are those of /etc/subuid, if newuidmap(1) is there to give them.
# Where no such namespaces can be had the program runs as it is, with the reason in $UPCONV_TEST_NO_ROOT.
export UPCONV_TEST_USERNS=1
for ids in --map-auto --map-root-user; do
	if UPCONV_TEST_NO_ROOT=$(unshare --user --map-root-user $ids --net --mount true 2>&1); then
		exec unshare --user --map-root-user $ids --net --mount sh -ec '
			mount -t tmpfs -o mode=755 none /run
			mkdir -m 755 /run/netns
			mkdir -m 1777 /run/tmp
			ip link set lo up
			export TMPDIR=/run/tmp # where nothing is left behind
			exec "$@"' sh "$@"
	fi
done
export UPCONV_TEST_NO_ROOT
exec "$@"
