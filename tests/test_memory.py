"""On a CPU freed memory is kept for the next step: what the environment says, and other C libraries, are left alone."""

from cskd_bench import memory


class Library:
    def __init__(self):
        self.asked = []

    def gnu_get_libc_version(self):
        raise AssertionError

    def mallopt(self, option, value):
        self.asked.append((option, value))
        return 1


def test_what_the_environment_says_stays(monkeypatch):
    library = Library()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert memory.keep_memory() and [option for option, _ in library.asked] == [-1]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_memory()
