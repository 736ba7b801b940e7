"""What a process may still use of its machine's memory."""

import pytest

from cskd_bench import machine


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Make /proc and /sys/fs/cgroup of files: 1,000 kB left on the machine, no groups."""
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  1000 kB\n")
    for name, file in (("_MEMORY", "meminfo"), ("_GROUPS", "cgroup"), ("_LIMITS", "groups")):
        monkeypatch.setattr(machine, name, tmp_path / file)
    return tmp_path


def limit(folder, **files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(str(content))


def test_without_limits_it_is_what_the_machine_has_left(system):
    assert machine.available_memory() == 1_024_000
    (system / "cgroup").write_text("0::/job\n")
    limit(system / "groups" / "job", memory__max="max", memory__current=5, memory__stat="inactive_file 1\n")
    assert machine.available_memory() == 1_024_000
    (system / "meminfo").unlink()
    assert machine.available_memory() is None


def test_the_tightest_group_around_a_process_counts(system):
    (system / "cgroup").write_text("0::/job/step\n")
    limit(system / "groups" / "job", memory__max=5000, memory__current=3000, memory__stat="inactive_file 500\n")
    limit(system / "groups" / "job" / "step", memory__max=9000, memory__current=0, memory__stat="inactive_file 0\n")
    assert machine.available_memory() == 2500


def test_so_do_the_limits_of_the_first_version_of_groups_as_a_container_sees_them(system):
    (system / "cgroup").write_text("4:memory:/docker/unseen\n1:cpu:/\n")
    files = {"memory__limit_in_bytes": 700, "memory__usage_in_bytes": 300, "memory__stat": "total_inactive_file 100\n"}
    limit(system / "groups" / "memory", **files)
    assert machine.available_memory() == 500
