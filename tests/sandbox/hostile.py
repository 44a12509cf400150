"""Programs that try to do harm. Tests check that none of them does.

Each runs after `host.PRELUDE`, which tells it where everything is. It reports what it has got hold of by `answer()`,
whose right value no program knows, and by what it writes. Numbers of system calls are those of x86-64.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hostile:
    name: str
    kind: str
    code: str
    as_program: bool = False
    """Whether it is run as a whole program, too, because that may make a difference."""


def _of_kind(kind: str, *, as_program: bool = False, **codes: str) -> list[Hostile]:
    return [Hostile(name, kind, code.strip() + "\n", as_program) for name, code in codes.items()]


TIME = _of_kind(
    "time",
    endless_loop="while True: pass",
    ignored_signals="""
import signal
for number in range(1, signal.NSIG):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
while True: pass
""",
    sleeps_for_ever="import time\ntime.sleep(10**6)",
    catches_everything="""
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    one_endless_step="import itertools\nsum(itertools.repeat(1))",
    endless_pattern="import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
    stops_itself="""
import signal
attempt(os.kill, os.getpid(), signal.SIGSTOP)
attempt(signal.raise_signal, signal.SIGSTOP)
""",
    does_not_end_its_threads="""
import threading, time
for _ in range(3): threading.Thread(target=time.sleep, args=(10**6,)).start()
""",
    does_not_end_at_exit="""
import atexit, time
atexit.register(time.sleep, 10**6)
class Lasting:
    def __del__(self): time.sleep(10**6)
lasting = Lasting()
""",
    timers_left="""
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
attempt(lambda: system_call(283, 1, 0))  # timerfd_create
attempt(lambda: system_call(253))  # inotify_init
attempt(lambda: system_call(222, 1, None, ctypes.byref(ctypes.c_long())))  # timer_create
""",
    ends_by_a_signal_without_a_name="""
import struct, time
timer, event = ctypes.c_long(), ctypes.create_string_buffer(struct.pack("Qii", 0, 40, 0), 64)
attempt(lambda: system_call(222, 1, event, ctypes.byref(timer)))  # timer_create, for signal 40
attempt(lambda: system_call(223, timer, 0, struct.pack("4q", 0, 0, 0, 1000), None))  # timer_settime
attempt(os.kill, os.getpid(), 40)
time.sleep(5)
""",
)

PROCESSES = _of_kind(
    "processes",
    # Bounded, since it should harm no machine on which it gets through.
    fork_bomb="""
import time
for _ in range(6):  # twice as many each time
    try: os.fork()
    except OSError: break
else: time.sleep(60)
""",
    daemon="""
import time
if attempt(os.fork) == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    os.closerange(0, 256)
    time.sleep(10**6)
""",
    raw_forks="""
import time
# fork, vfork, clone with SIGCHLD, clone3, and x86-64's second set of numbers
for number, *arguments in ((57,), (58,), (56, 17, 0, 0, 0, 0), (435, (ctypes.c_uint64 * 11)(), 88), (0x40000039,)):
    if attempt(system_call, number, *arguments) == 0: time.sleep(10**6); os._exit(0)
""",
    i386_fork="""
import mmap, time
# mov eax, 2 (fork, by the numbers of i386); int 0x80; ret
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3")
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
if os.uname().machine == "x86_64" and attempt(ctypes.CFUNCTYPE(ctypes.c_int)(address)) == 0:
    time.sleep(10**6)
""",
    shell="""
import subprocess
attempt(os.system, f"sleep 1000 # {MARK}")
attempt(subprocess.run, ["sh", "-c", f"sleep 1000 # {MARK}"])
attempt(os.posix_spawn, "/bin/sh", ["sh", "-c", f"sleep 1000 # {MARK}"], {})
""",
    exec_itself="attempt(os.execv, '/bin/sh', ['sh', '-c', f'sleep 1000 # {MARK}'])",
    exec_from_memory="""
descriptor = attempt(os.memfd_create, MARK)
attempt(os.write, descriptor, f"#!/bin/sh\\nsleep 1000 # {MARK}".encode())
attempt(os.execve, descriptor, [MARK], {})
""",
    workers="""
import multiprocessing, time
worker = attempt(multiprocessing.Process, None, time.sleep, None, (10**6,))
attempt(worker.start)
""",
    thread_bomb="""
import threading, time
def more():
    for _ in range(10**6): threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()
attempt(more)
""",
    descriptor_bomb="""
import socket
held = []
def more():
    while len(held) < 10**5: held.extend(os.pipe())
attempt(more)
while len(held) < 10**5 and attempt(os.dup, 1): held.append(1)
""",
    end_the_group="""
import signal
for group in (0, os.getpgid(0), os.getpgid(os.getppid())): attempt(os.killpg, group, signal.SIGKILL)
""",
    end_the_parent="""
import signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL): attempt(os.kill, os.getppid(), number)
""",
    stop_the_parent="import signal\nattempt(os.kill, os.getppid(), signal.SIGSTOP)",
    signal_the_judge="""
import signal
attempt(os.kill, JUDGE, signal.SIGUSR1)
attempt(os.kill, -1, signal.SIGCONT)  # everybody; harmless where it gets through
attempt(signal.pidfd_send_signal, attempt(os.pidfd_open, JUDGE), signal.SIGUSR1)
""",
    signal_by_a_descriptor="""
import fcntl, signal
# The kernel sends the owner of a descriptor a signal of choice when data comes.
reading, writing = os.pipe()
attempt(fcntl.fcntl, reading, 8, JUDGE)  # F_SETOWN
attempt(fcntl.fcntl, reading, 10, signal.SIGUSR1)  # F_SETSIG
attempt(fcntl.fcntl, reading, fcntl.F_SETFL, os.O_ASYNC)
attempt(os.write, writing, b"x")
""",
    trace_the_parent="""
for pid in (os.getppid(), JUDGE):
    for request in (16, 0x4206): attempt(system_call, 101, request, pid, 0, 0)  # attach, seize
    local = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(local), 8)
    for number in (310, 311): attempt(system_call, number, pid, vector, 1, vector, 1, 0)  # process_vm_readv, _writev
    attempt(open, f"/proc/{pid}/mem", "r+b")
    attempt(os.listdir, f"/proc/{pid}/fd")
    attempt(lambda: system_call(438, os.pidfd_open(pid), 0, 0))  # pidfd_getfd
""",
    # By a little: the judge must be able to report it.
    slow_the_parent="""
import resource
for pid in (os.getppid(), JUDGE):
    attempt(os.setpriority, os.PRIO_PROCESS, pid, 1)
    limits = attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE)
    attempt(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1])))
    attempt(lambda: os.sched_setaffinity(pid, {min(os.sched_getaffinity(pid))}))
    attempt(os.sched_setscheduler, pid, os.SCHED_BATCH, os.sched_param(0))
""",
    more_rights="""
import resource
for name in ("CPU", "AS", "FSIZE", "NOFILE", "NPROC"):
    attempt(resource.setrlimit, getattr(resource, "RLIMIT_" + name), (resource.RLIM_INFINITY,) * 2)
attempt(os.setuid, 0); attempt(os.setgid, 0); attempt(os.setsid); attempt(os.nice, -20)
for option in (1, 4, 38): attempt(libc.prctl, option, 0, 0, 0, 0)  # death signal, dumpable, no new privileges
attempt(system_call, 272, 0x10000000 | 0x20000)  # unshare: user and mount namespaces
attempt(system_call, 308, 0, 0)  # setns
while True: pass
""",
    rare_system_calls="""
buffer = ctypes.create_string_buffer(512)
# io_uring_setup, bpf, userfaultfd, perf_event_open, keyctl, add_key, open_by_handle_at, kexec_load, init_module
for number, *arguments in (
    (425, 8, buffer), (321, 0, buffer, 72), (323, 0), (298, buffer, 0, -1, -1, 0), (250, 0, -3, 0),
    (248, b"user", b"x", b"x", 1, -3), (304, -100, buffer, 0), (246, 0, 0, 0, 0), (175, buffer, 0, b""),
): attempt(system_call, number, *arguments)
""",
)  # fmt: skip

MEMORY = _of_kind(
    "memory",
    grows="held = []\nwhile True: held.append(bytearray(2**24))",
    huge_integer="x = 9\nwhile True: x = x * x",
    huge_mapping="""
import mmap
held = []
def more():
    while True:
        held.append(mmap.mmap(-1, 2**28))
        held[-1][:] = bytes(2**20) * 2**8
attempt(more)
""",
    recursion="""
sys.setrecursionlimit(10**9)
def f(): f()
f()
""",
    recursion_in_c="""
held = None
for _ in range(10**6): held = [held]
print(held)
""",
    crash="ctypes.string_at(0)",
    abort="os.abort()",
    own_memory="""
with open("/proc/self/mem", "r+b") as memory:
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        memory.seek(start)
        try: memory.write(bytes(min(end - start, 4096)))
        except OSError: pass
""",
    shared_memory="""
from multiprocessing import shared_memory
attempt(shared_memory.SharedMemory, MARK, True, 2**20)
attempt(open, f"/dev/shm/{MARK}", "w")
for number, *arguments in ((29, KEY, 2**20, 0o1666), (64, KEY, 1, 0o1666), (68, KEY, 0o1666)):
    attempt(system_call, number, *arguments)  # shmget, semget, msgget
attempt(system_call, 240, MARK.encode(), 0o102, 0o666, None)  # mq_open
""",
    shared_memory_of_others="""
# An object is reached by its number, which is small enough to guess, without a call that asks for it.
libc.shmat.restype = ctypes.c_void_p
def look():
    address = libc.shmat(SEGMENT, None, 0)
    if address in (None, 2**64 - 1): raise OSError
    return ctypes.string_at(address, 64)
attempt(look)
attempt(system_call, 31, SEGMENT, 0, None)  # shmctl: remove
""",
)

OUTPUT = _of_kind(
    "output",
    as_program=True,
    flood="while True: os.write(1, b'x' * 65536)",
    flood_of_errors="while True: os.write(2, b'x' * 65536)",
    flood_of_lines="while True: print('x' * 1000, flush=True)",
    huge_answer="def answer(*_): return 'x' * 10**8\nprint(answer())",
    wide_answer="""
value = [1]
for _ in range(60): value = [value, value]
def answer(*_): return value
""",
    deep_answer="""
value = 1
for _ in range(10**5): value = {"a": [value]}
def answer(*_): return value
""",
    half_an_answer="""
import time
for descriptor in range(3, 64):
    try: os.write(descriptor, b'{"value": ')
    except OSError: pass
time.sleep(10**6)
""",
    every_descriptor="""
for name in (attempt(os.listdir, "/proc/self/fd") or range(256)):
    if int(name) > 2:
        attempt(os.set_blocking, int(name), False)
        attempt(os.read, int(name), 4096)
        attempt(os.write, int(name), b"x" * 4096)
        attempt(os.lseek, int(name), 0, 0)
        attempt(os.ftruncate, int(name), 0)
attempt(os.closerange, 0, 256)
""",
    descriptors_to_others="""
import socket
for descriptor in range(3, 64):
    # Where a channel is a socket, take what others sent and send what others wait for.
    try: channel = socket.socket(fileno=os.dup(descriptor))
    except OSError: continue
    attempt(channel.recv, 4096, socket.MSG_DONTWAIT)
    attempt(socket.send_fds, channel, [b"x"], [0, 1])
    attempt(channel.shutdown, socket.SHUT_RDWR)
""",
    closes_everything="os.closerange(0, 256)\nwhile True: pass",
    malicious_pickle="""
import pickle
class Payload:
    def __reduce__(self): return (os.system, (f"touch {FOLDER}/{MARK}",))
def answer(*_): return Payload()
attempt(pickle.loads, pickle.dumps(Payload()))
os.write(1, pickle.dumps(Payload()))
""",
)

FILES = _of_kind(
    "files",
    delete="""
import shutil
attempt(os.unlink, CANARY); attempt(shutil.rmtree, FOLDER); attempt(os.rename, CANARY, CANARY + "x")
""",
    overwrite="""
for mode in ("w", "a", "r+", "x"): attempt(open, CANARY, mode)
attempt(os.truncate, CANARY, 0)
attempt(os.replace, "own", CANARY)
""",
    make="""
for folder in (FOLDER, "/tmp", "/var/tmp", "/dev/shm", "/run", ".", os.path.expanduser("~")):
    attempt(open, f"{folder}/{MARK}", "w")
    attempt(os.mkdir, f"{folder}/{MARK}.d")
    attempt(os.mkfifo, f"{folder}/{MARK}.f")
""",
    links="""
for link in (os.symlink, os.link):
    for name in (f"{FOLDER}/{MARK}", MARK):
        attempt(link, CANARY, name)
        attempt(open, name, "w")
attempt(os.symlink, "/etc", f"{MARK}.etc"); attempt(os.listdir, f"{MARK}.etc")
""",
    rights_of_files="""
attempt(os.chmod, CANARY, 0o600); attempt(os.chown, CANARY, 1, 1); attempt(os.utime, CANARY, (0, 0))
attempt(os.setxattr, CANARY, "user.x", b"x"); attempt(os.chroot, FOLDER)
attempt(system_call, 165, b"none", FOLDER.encode(), b"tmpfs", 0, 0)  # mount
value = ctypes.create_string_buffer(b"x")
attributes = (ctypes.c_uint64 * 2)(ctypes.addressof(value), 1)
attempt(system_call, 463, -100, CANARY.encode(), 0, b"user.y", attributes, 16)  # setxattrat, of Linux 6.13
attempt(system_call, 469, -100, CANARY.encode(), attributes, 16, 0)  # file_setattr, of Linux 6.17
""",
    raw_opens="""
import struct
path = CANARY.encode()
attempt(system_call, 2, path, 0o1002)  # open, creat, openat, openat2, and open by the second set of numbers
attempt(system_call, 85, path, 0o600)
attempt(system_call, 257, -100, path, 0o1002)
attempt(system_call, 437, -100, path, struct.pack("QQQ", 0o1002, 0, 0), 24)
attempt(system_call, 0x40000002, path, 0o1002)
""",
    # Bounded, since it should harm no machine on which it gets through.
    fill_the_disk="""
for folder in (".", FOLDER, "/tmp", "/dev/shm"):
    try:
        with open(f"{folder}/{MARK}.big", "wb") as file:
            for _ in range(64): file.write(bytes(2**20))
    except OSError as error: loot.append(type(error).__name__)
""",
)

READING = _of_kind(
    "reading",
    password_file="for path in ('/etc/passwd', '/etc/shadow'): attempt(lambda: open(path).read())",
    environment="""
attempt(dict, os.environ)
attempt(os.environ.__getitem__, VARIABLE)
libc.getenv.restype = ctypes.c_char_p
attempt(libc.getenv, VARIABLE.encode())
for pid in ("self", os.getppid(), JUDGE, 1): attempt(lambda: open(f"/proc/{pid}/environ").read()[-400:])
""",
    data_set="""
attempt(lambda: open(CANARY).read())
attempt(lambda: os.read(os.open(CANARY, os.O_RDONLY), 100))
attempt(os.listdir, FOLDER); attempt(os.listdir, "/"); attempt(os.listdir, os.path.expanduser("~"))
""",
    data_set_by_another_way="""
for pid in ("self", os.getppid(), JUDGE, 1):
    for way in ("root", "cwd/../../../../../../../.."): attempt(lambda: open(f"/proc/{pid}/{way}{CANARY}").read())
attempt(os.chdir, FOLDER); attempt(lambda: open("canary.txt").read())
attempt(lambda: open("../" * 20 + CANARY).read())
descriptor = attempt(os.open, FOLDER, 0o10000000)  # O_PATH
attempt(lambda: os.read(os.open("canary.txt", os.O_RDONLY, dir_fd=descriptor), 100))
import linecache, mmap, sqlite3, zipimport
attempt(linecache.getline, CANARY, 1)
attempt(lambda: sqlite3.connect(f"file:{CANARY}?mode=ro", uri=True).execute("select 1 from sqlite_master").fetchall())
""",
)

NETWORK = _of_kind(
    "network",
    loopback_tcp="""
import socket
attempt(lambda: socket.create_connection(("127.0.0.1", TCP_PORT)).send(MARK.encode()))
attempt(socket.create_server, ("127.0.0.1", 0))
""",
    loopback_udp="""
import socket
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(MARK.encode(), ("127.0.0.1", UDP_PORT)))
""",
    unix_socket="""
import socket
attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(MARK.encode(), "\\0" + ABSTRACT))
# One half of a pair may write to others, too.
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    attempt(lambda: socket.socketpair(type=kind)[0].sendto(MARK.encode(), "\\0" + ABSTRACT))
for path in ("/run/docker.sock", "/var/run/dbus/system_bus_socket", "/dev/log"):
    attempt(lambda: socket.socket(socket.AF_UNIX).connect(path))
""",
    other_sockets="""
import socket
for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_INET6, 38, 40):  # the last two: kernel crypto, vsock
    attempt(socket.socket, family, socket.SOCK_RAW)
attempt(socket.getaddrinfo, "localhost", 80)
""",
)

HOSTILE: tuple[Hostile, ...] = tuple(TIME + PROCESSES + MEMORY + OUTPUT + FILES + READING + NETWORK)
NEEDS_SECCOMP = frozenset(
    ("rights_of_files", "shared_memory", "shared_memory_of_others", "loopback_udp", "slow_the_parent")
)
"""Programs that do harm where Landlock alone holds them: it has no rule for the modes, times and attributes of files,
for System V objects, for UDP, or for the limits and priority of other processes of the same user."""
