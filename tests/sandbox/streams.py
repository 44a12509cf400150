"""Programs that handle the standard streams themselves. Under plain Python each of them writes 4 and ends with 0."""

OWN_STREAMS = {
    "closed": r"""
print(4)
sys.stdout.close()
""",
    "closed twice": r"""
print(4)
sys.stdout.close()
sys.__stdout__.close()
""",
    "descriptor closed": r"""
print(4, flush=True)
os.close(1)
""",
    "detached wrapper": r"""
sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8')
print(4)
""",
    "codecs writer": r"""
import codecs
sys.stdout = codecs.getwriter('utf8')(sys.stdout.detach())
print(4)
""",
    "atexit from buffer": r"""
text = io.StringIO()
sys.stdout = text
atexit.register(lambda: sys.__stdout__.write(text.getvalue()))
print(4)
""",
    "atexit os.write": r"""
out = io.BytesIO()
sys.stdout = io.TextIOWrapper(out, write_through=True)
atexit.register(lambda: os.write(1, out.getvalue()))
print(4)
""",
    "fast output": r"""
class Fast(io.IOBase):
    def __init__(self, file):
        self.fd, self.out = file.fileno(), io.BytesIO()
        self.write = lambda text: self.out.write(text.encode())
    def flush(self):
        os.write(self.fd, self.out.getvalue())
        self.out.truncate(0), self.out.seek(0)
sys.stdout = Fast(sys.stdout)
print(4)
""",
    "unflushed file of fd 1": r"""
out = open(1, 'w', closefd=False)
out.write('4\n')
""",
    "at finalisation": r"""
class Late:
    def __del__(self): print(4)
late = Late()
""",
    "stdout none": r"""
print(4, flush=True)
sys.stdout = None
""",
    "stdout deleted": r"""
print(4)
del sys.stdout
""",
    "redirect": r"""
import contextlib
with contextlib.redirect_stdout(io.StringIO()) as text:
    print(4)
print(text.getvalue(), end='')
""",
    "reconfigure": r"""
sys.stdout.reconfigure(line_buffering=True)
print(4)
""",
    "handler raises": r"""
atexit.register(lambda: 1 / 0)
print(4)
""",
    "handler exits": r"""
atexit.register(sys.exit, 3)
print(4)
""",
    "thread": r"""
import threading, time
def late():
    time.sleep(0.01)
    print(4)
threading.Thread(target=late).start()
""",
    "dup": r"""
copy = os.dup(1)
os.write(copy, b'4\n')
""",
    "dup2": r"""
reading, writing = os.pipe()
kept = os.dup(1)
os.dup2(writing, 1)
print('no', flush=True)
os.dup2(kept, 1)
print(4)
""",
    "raise in thread": r"""
import threading
threading.Thread(target=lambda: 1 / 0).start()
print(4)
""",
    "stdin closed": r"""
sys.stdin.close()
print(4)
""",
}
