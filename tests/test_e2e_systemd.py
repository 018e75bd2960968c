"""Our units and a line of fstab under a real systemd that is booted for it."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
from machine import Machine, machine

__all__ = ["machine"]

STORE = "coop://ben"
# ben serves by the units; anna, with folders of her own, is his partner.
PAIR = """
anna() { COOPFS_CONFIG_DIR=/tmp/c COOPFS_STATE_DIR=/tmp/s COOPFS_CACHE_DIR=/tmp/k coopfs "$@"; }
coopfs --json pair invite --as ben --root /var/lib/coopfs-serve --quota 1G \
    --listen 127.0.0.1:8766 --waiting-at 127.0.0.1:8766 --address 127.0.0.1:8765 >/tmp/invitation &
set +x
until CODE=$(grep -o '"code": *"[^"]*"' /tmp/invitation); do sleep 0.05; done
CODE=${CODE#*: }
set -x
anna pair accept --as anna --listen 127.0.0.1:9 --quota 1G "${CODE//\\"/}" >/dev/null
wait $!
mkdir /tmp/source
head -c 20M /dev/urandom >/tmp/source/large
echo hello >/tmp/source/small
"""


SHUT = """
test "$(systemctl show -P DynamicUser -P ProtectSystem coopfs-serve.service | tr '\\n' ' ')" = \
    'yes strict '
PID=$(systemctl show -P MainPID coopfs-serve.service)
test "$(stat -c %u /proc/$PID)" -gt 60000
grep 'Seccomp:.2' /proc/$PID/status
grep 'CapEff:.0000000000000000' /proc/$PID/status
test "$(stat -Lc %u:%a /var/lib/coopfs-serve)" = "$(stat -c %u /proc/$PID):700"
"""


def test_the_socket_starts_the_service_shut_tight_and_both_stop_in_good_order(
    machine: Machine,
) -> None:
    said = machine.run(
        """
systemctl start coopfs-serve.socket
fails systemctl is-active coopfs-serve.service
exec 3<>/dev/tcp/127.0.0.1/8765
until systemctl is-active coopfs-serve.service; do sleep 0.05; done
"""
        + SHUT
        + """
exec 3>&-
systemctl reload coopfs-serve.service
systemctl stop coopfs-serve.socket coopfs-serve.service
test "$(systemctl show -P Result coopfs-serve.service)" = success
journalctl --no-pager -o cat -u coopfs-serve.service
"""
    )
    journal = said.rpartition("journalctl")[2]
    assert "Failed" not in journal and "Traceback" not in journal, journal
    assert journal.count("Deactivated successfully") == 1, journal


@pytest.mark.skipif(
    not os.environ.get("COOPFS_TEST_SOAK"), reason="takes 15 s: set COOPFS_TEST_SOAK=1"
)
def test_a_partner_is_served_by_the_units_on_demand_and_until_they_are_stopped(
    machine: Machine,
) -> None:
    said = machine.run(
        # The folder is made by whoever comes first: here by the administrator, as root.
        PAIR
        + """
systemctl start coopfs-serve.socket
fails systemctl is-active coopfs-serve.service
anna init coop://ben --no-passphrase --host anna >/dev/null
systemctl is-active coopfs-serve.service
"""
        + SHUT
        + """
# Stopped in the middle of an upload: nothing is lost, the next connection starts it again.
anna --json snapshot /tmp/source --series s --limit-upload 60M >/tmp/taken &
until find /var/lib/coopfs-serve/partners/anna/objects/data -type f | grep .; do sleep 0.05; done
systemctl stop coopfs-serve.service
test "$(systemctl show -P Result coopfs-serve.service)" = success
wait $!
systemctl is-active coopfs-serve.service
test "$(systemctl show -P MainPID coopfs-serve.service)" != $PID
anna check --read-data
anna restore latest:/tmp/source --target /tmp/back
cmp /tmp/source/large "$(find /tmp/back -name large)"

# An administrator's change holds for the running service, and for the next one.
coopfs serve admit anna --root /var/lib/coopfs-serve --quota 2G
systemctl reload coopfs-serve.service
anna partner status ben
systemctl stop coopfs-serve.socket coopfs-serve.service
COOPFS_STORE_TIMEOUT=1 fails anna --json check
systemctl start coopfs-serve.service
anna check
systemctl stop coopfs-serve.socket coopfs-serve.service
journalctl --no-pager -o cat -u coopfs-serve.service
"""
    )
    journal = said.rpartition("journalctl")[2]
    assert "Failed" not in journal and "Traceback" not in journal, journal
    assert journal.count("Deactivated successfully") == 3, journal
    assert re.search(r"2\.00 GiB|2 GiB|2G", said)


FSTAB = """
home /mnt/asked fuse.coopfs noauto,allow_other 0 0
none-such /mnt/none fuse.coopfs noauto 0 0
"""


def test_a_line_of_fstab_is_mounted_and_unmounted_as_a_unit(machine: Machine) -> None:
    said = replace(machine, files={"/etc/fstab": FSTAB}).run(
        """
mkdir /tmp/source
echo hello >/tmp/source/small
coopfs init /var/lib/store --archive home --no-passphrase --host anna >/dev/null
coopfs snapshot /tmp/source --series s
PLACE=by-host/anna/s/latest/tmp/source/small

systemctl start mnt-asked.mount || { journalctl --no-pager; exit 1; }
test "$(setpriv --reuid=65534 --regid=65534 --clear-groups cat /mnt/asked/$PLACE)" = hello
grep '/mnt/asked fuse.coopfs ro,' /proc/mounts
systemctl stop mnt-asked.mount
test "$(systemctl show -P Result mnt-asked.mount)" = success
fails grep /mnt/asked /proc/mounts
test ! -e /mnt/asked/by-host

while pgrep -f 'coopfs.*mount'; do sleep 0.05; done

fails systemctl start mnt-none.mount
journalctl --no-pager -o cat -u mnt-none.mount
"""
    )
    assert "none-such" in said.rpartition("journalctl")[2]
