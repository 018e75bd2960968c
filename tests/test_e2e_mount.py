"""A real mount of one of everything: what ordinary tools see is what the source holds."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host
from mounting import Mounted, mounted, needs_fuse, wait_until
from rich_source import ACCESS_ACL, NOBODY, differences, make_rich_source, used_len

pytestmark = needs_fuse


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host whose only snapshot is of one of everything."""
    base = tmp_path_factory.mktemp("mount")
    make_rich_source(base / "source")
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture(scope="module")
def mount(host: Host) -> Iterator[Mounted]:
    """The archive, mounted for all tests that only look."""
    with mounted(host, host.base / "mnt") as mount:
        yield mount


@pytest.fixture
def source(host: Host) -> Path:
    """What was snapshot."""
    return host.base / "source"


@pytest.fixture
def shown(host: Host, mount: Mounted) -> Path:
    """The same in the mount."""
    return mount.path / "by-host/anna/s/latest" / str(host.base / "source").lstrip("/")


def attributes_of(folder: Path) -> list[bytes]:
    """Return all attributes below *folder* as the usual tools show them, a paragraph a file."""
    return sorted(
        paragraph
        for command in (["getfattr", "-Rhd", "-m-", "-e", "hex", "."], ["getfacl", "-RP", "."])
        for paragraph in subprocess.run(
            command, cwd=folder, capture_output=True, check=True
        ).stdout.split(b"\n\n")
    )


# --- it is the source -------------------------------------------------------------


def test_rsync_finds_no_difference(source: Path, shown: Path) -> None:
    assert differences(source, shown) == []
    assert differences(shown, source) == []


def test_rsync_does_see_a_difference(source: Path, shown: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", tmp_path / "copy"], check=True)
    with (tmp_path / "copy" / "long").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0")
    assert any("long" in line for line in differences(tmp_path / "copy", shown))


def test_diff_finds_no_difference(source: Path, shown: Path) -> None:
    command = ["diff", "-r", "--no-dereference", source, shown]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    # diff cannot compare special files and says so of each
    assert [line for line in ran.stdout.splitlines() if not line.startswith("File ")] == []


def test_attributes_and_acls_are_those_of_the_source(source: Path, shown: Path) -> None:
    assert attributes_of(shown) == attributes_of(source)


def test_a_copy_with_cp_is_the_source_again(source: Path, shown: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", f"{shown}/.", tmp_path / "copy"], check=True)
    assert differences(source, tmp_path / "copy") == []


def test_every_stat_field_that_a_snapshot_keeps_is_right(source: Path, shown: Path) -> None:
    for path, folders, files in os.walk(os.fsencode(source)):
        for name in [*folders, *files]:
            inside = os.path.relpath(os.path.join(path, name), os.fsencode(source))
            one = os.lstat(os.path.join(path, name))
            other = os.lstat(os.path.join(os.fsencode(shown), inside))
            for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink", "st_rdev"):
                assert getattr(one, field) == getattr(other, field), (inside, field)
            if not stat.S_ISDIR(one.st_mode):
                assert one.st_size == other.st_size, inside


# --- names, inodes, sizes -----------------------------------------------------------


def test_hard_links_share_an_inode_and_equal_content_does_not(shown: Path) -> None:
    one = (shown / "one chunk").stat()
    assert one.st_nlink == 3
    for name in ("linked/file", "linked/later/file"):
        assert (shown / name).stat().st_ino == one.st_ino
    assert (shown / "same content").stat().st_ino != one.st_ino


def test_equal_folders_are_two_sets_of_inodes(host: Host, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "tree" / name / "sub").mkdir(parents=True)
        (tmp_path / "tree" / name / "sub" / "file").write_bytes(b"the same")
        os.utime(tmp_path / "tree" / name / "sub" / "file", ns=(0, 0))
        os.utime(tmp_path / "tree" / name / "sub", ns=(0, 0))
        os.utime(tmp_path / "tree" / name, ns=(0, 0))
    host.ok("snapshot", tmp_path / "tree", "--series", "twins")
    with mounted(host, tmp_path / "mnt") as mount:
        top = mount.path / "by-host/anna/twins/latest" / str(tmp_path / "tree").lstrip("/")
        inos = [path.stat().st_ino for path in sorted(top.rglob("*"))]
    assert len(inos) == 6
    assert len(set(inos)) == 6


def test_every_inode_number_means_one_file(shown: Path) -> None:
    seen: dict[int, tuple[int, int]] = {}
    for path in shown.rglob("*"):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
            assert seen.setdefault(status.st_ino, (status.st_size, status.st_mtime_ns)) == (
                status.st_size,
                status.st_mtime_ns,
            )
            assert list(seen).count(status.st_ino) == 1


def test_inode_numbers_in_listings_are_those_of_stat(shown: Path) -> None:
    with os.scandir(shown) as entries:
        for entry in entries:
            assert entry.inode() == os.lstat(entry.path).st_ino


def test_a_listing_has_dot_and_dot_dot(shown: Path) -> None:
    names = subprocess.run(["ls", "-fa", shown], capture_output=True, check=True).stdout
    assert names.splitlines()[:2] == [b".", b".."]


def test_a_sparse_file_is_sparse_to_du(shown: Path) -> None:
    assert (shown / "holes").stat().st_size == 4_000_000
    assert used_len(shown / "holes") < 200_000
    assert used_len(shown / "only a hole") == 0
    assert used_len(shown / "long") >= 9_000_000


def test_a_name_that_is_not_there_is_not_there(shown: Path) -> None:
    for _ in range(2):  # the second time the kernel knows
        with pytest.raises(FileNotFoundError):
            (shown / "no such name").stat()


@pytest.mark.root
def test_other_users_may_what_modes_and_acls_say(tmp_path: Path) -> None:
    # Not below tmp_path: other users may not enter that.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        files = {"open": 0o644, "closed": 0o600, "by acl": 0o600, "other": 0o600}
        (base / "source").mkdir()
        for file, mode in files.items():
            (base / "source" / file).write_bytes(file.encode())
            (base / "source" / file).chmod(mode)
        os.setxattr(base / "source" / "by acl", "system.posix_acl_access", ACCESS_ACL)
        os.chown(base / "source" / "other", NOBODY, NOBODY)
        host = Host(tmp_path)
        host.init(tmp_path / "store")
        host.ok("snapshot", base / "source", "--series", "s")
        with mounted(host, base / "mnt", "-o", "allow_other") as mount:
            top = mount.path / "by-host/anna/s/latest" / str(base / "source").lstrip("/")
            ran = subprocess.run(
                ["grep", "-r", "", "."],
                cwd=top,
                capture_output=True,
                check=False,
                text=True,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
            )
    assert sorted(ran.stdout.splitlines()) == ["./by acl:by acl", "./open:open", "./other:other"]
    assert "./closed: Permission denied" in ran.stderr


@pytest.mark.root
def test_without_allow_other_nobody_else_gets_in(shown: Path, mount: Mounted) -> None:
    ran = subprocess.run(
        ["ls", mount.path], capture_output=True, check=False, user=NOBODY, group=NOBODY
    )
    assert ran.returncode != 0


# --- content ------------------------------------------------------------------------


def test_reads_at_any_place_are_exact(source: Path, shown: Path) -> None:
    with (source / "long").open("rb") as one, (shown / "long").open("rb", buffering=0) as other:
        for offset in range(0, 9_100_000, 123_457):
            for size in (1, 4_095, 70_000):
                assert os.pread(other.fileno(), size, offset) == os.pread(
                    one.fileno(), size, offset
                )


def test_direct_reads_past_the_page_cache_are_exact(source: Path, shown: Path) -> None:
    for name in ("long", "holes", "text", "inline"):
        ran = subprocess.run(
            ["dd", f"if={shown / name}", "iflag=direct", "bs=64K", "status=none"],
            capture_output=True,
            check=True,
        )
        assert ran.stdout == (source / name).read_bytes(), name


def test_many_readers_at_once_get_the_same_bytes(source: Path, shown: Path) -> None:
    content = (source / "long").read_bytes()
    wrong: list[int] = []

    def read(number: int) -> None:
        with (shown / "long").open("rb") as file:
            file.seek(number * 700_001)
            if file.read() != content[number * 700_001 :]:
                wrong.append(number)

    subprocess.run(["sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"], check=False)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_every_write_is_refused_as_read_only(shown: Path) -> None:
    attempts = [
        lambda: (shown / "new").write_bytes(b"x"),
        lambda: (shown / "text").open("r+b"),
        lambda: (shown / "text").unlink(),
        lambda: (shown / "new").mkdir(),
        lambda: (shown / "text").rename(shown / "other"),
        lambda: os.utime(shown / "text"),
        lambda: (shown / "text").chmod(0o600),
        lambda: os.setxattr(shown / "text", "user.x", b"x"),
        lambda: os.truncate(shown / "text", 0),
        lambda: os.symlink("a", shown / "new"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:  # the errno is what counts
            attempt()
        assert caught.value.errno == errno.EROFS


# --- what is above the snapshots ------------------------------------------------------


def test_the_top_shows_hosts_dates_and_status(mount: Mounted) -> None:
    assert sorted(os.listdir(mount.path)) == [".coopfs", "by-date", "by-host"]
    (link,) = (mount.path / "by-date").glob("*/anna_s_*")
    assert link.is_symlink()
    assert link.resolve() == (mount.path / "by-host/anna/s/latest").resolve()
    assert link.parent.name == link.resolve().name.partition("_")[0]
    status = (mount.path / ".coopfs/status").read_text()
    assert "partner: ok\n" in status
    assert "archive: default\n" in status
    assert "snapshots of distrusted writers: 0\n" in status
    assert os.getxattr(link.resolve(), "user.coopfs.distrusted") == b"no"


def test_own_attributes_are_answered_but_never_listed(shown: Path) -> None:
    assert len(os.getxattr(shown / "text", "user.coopfs.snapshot")) == 64
    assert os.getxattr(shown / "long", "user.coopfs.local") == b"yes"
    assert os.listxattr(shown / "text") == []
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(shown / "text", "user.coopfs.nonsense")


def test_df_answers(mount: Mounted) -> None:
    values = os.statvfs(mount.path)
    assert values.f_bavail == 0
    assert values.f_blocks * values.f_frsize >= 9_000_000
    assert values.f_flag & os.ST_RDONLY
    assert values.f_flag & os.ST_NOSUID


def test_a_new_snapshot_appears_while_mounted(host: Host, mount: Mounted, tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "file").write_bytes(b"one")
    host.ok("snapshot", tmp_path / "fresh", "--series", "fresh")
    file = mount.path / "by-host/anna/fresh/latest" / str(tmp_path / "fresh/file").lstrip("/")
    wait_until(file.exists, "the new series")
    assert file.read_bytes() == b"one"
    (tmp_path / "fresh" / "file").write_bytes(b"two!")
    host.ok("snapshot", tmp_path / "fresh", "--series", "fresh")
    wait_until(lambda: file.read_bytes() == b"two!", "latest to be the second snapshot")
    assert len(os.listdir(mount.path / "by-host/anna/fresh")) == 3


def test_names_for_samba_are_shown_on_request(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt", "-o", "shadow") as mount:
        names = os.listdir(mount.path / "by-host/anna/s")
        (shadow,) = [name for name in names if name.startswith("@GMT-")]
        assert len(shadow) == len("@GMT-2026.11.23-04.28.31")
        inside = str(host.base / "source/inline").lstrip("/")
        assert (mount.path / "by-host/anna/s" / shadow / inside).read_bytes() == b"short"


def test_owner_and_mode_can_be_overridden(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt", "-o", "uid=1234,gid=5678,umask=027") as mount:
        inside = mount.path / "by-host/anna/s/latest" / str(host.base / "source/all").lstrip("/")
        status = inside.stat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)
        assert stat.S_IMODE(status.st_mode) == 0o750


# --- damage ---------------------------------------------------------------------------


def test_damage_is_an_io_error_and_a_line_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    content = os.urandom(6_000_000)
    (tmp_path / "source" / "good").write_bytes(b"y" * 1_000)
    (tmp_path / "source" / "hurt").write_bytes(content)
    host = Host(tmp_path)
    host.init(tmp_path / "store")
    host.ok("snapshot", tmp_path / "source", "--series", "s")
    largest = max((tmp_path / "store" / "data").rglob("*/*"), key=lambda p: p.stat().st_size)
    largest.chmod(0o600)
    with largest.open("r+b") as pack:
        pack.seek(3_000_000)
        byte = pack.read(1)
        pack.seek(3_000_000)
        pack.write(bytes((byte[0] ^ 1,)))
    with mounted(host, tmp_path / "mnt") as mount:
        top = mount.path / "by-host/anna/s/latest" / str(tmp_path / "source").lstrip("/")
        failed = 0
        with (top / "hurt").open("rb", buffering=0) as file:
            for offset in range(0, len(content), 4096):
                try:
                    found = os.pread(file.fileno(), 4096, offset)
                except OSError as exc:
                    assert exc.errno == errno.EIO
                    failed += 1
                else:
                    assert found == content[offset : offset + 4096]
        assert 0 < failed < len(content) // 4096
        _, log = mount.stop()
    lines = [line for line in log.splitlines() if "/hurt: " in line]
    assert lines
    assert len(lines) == len(set(lines))
    assert "chunk" in lines[0]


def test_a_pack_cut_short_is_an_io_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(os.urandom(3_000_000))
    host = Host(tmp_path)
    host.init(tmp_path / "store")
    host.ok("snapshot", tmp_path / "source", "--series", "s")
    largest = max((tmp_path / "store" / "data").rglob("*/*"), key=lambda p: p.stat().st_size)
    os.truncate(largest, 500)
    with mounted(host, tmp_path / "mnt") as mount:
        top = mount.path / "by-host/anna/s/latest" / str(tmp_path / "source").lstrip("/")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (top / "file").read_bytes()


def test_files_of_the_mount_can_be_copied_while_the_store_is_away(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x" * 10_000)
    host = Host(tmp_path)
    host.init(tmp_path / "store")
    host.ok("snapshot", tmp_path / "source", "--series", "s")
    with mounted(host, tmp_path / "mnt") as mount:
        top = mount.path / "by-host/anna/s/latest" / str(tmp_path / "source").lstrip("/")
        assert (top / "file").read_bytes() == b"x" * 10_000
        shutil.move(tmp_path / "store", tmp_path / "gone")
        assert (top / "file").read_bytes() == b"x" * 10_000
        wait_until(
            lambda: (
                "partner: unreachable"
                in (
                    os.listdir(mount.path / "by-host")
                    and (mount.path / ".coopfs/status").read_text()
                )
            ),
            "the status to say that the store is away",
        )
