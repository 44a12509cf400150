"""Programs that solve nothing and try to be judged as right. Tests check that none of them succeeds.

Each program defines `f`, which the tests call, or ends before that. The expected values are drawn anew for each run, so
a forgery must find them out, change them, or keep them from being compared.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Secret:
    """A test whose expected value no program can know."""

    argument: int
    wanted: object
    source: str

    @classmethod
    def draw(cls) -> tuple[Secret, ...]:
        """Return a test that compares with a number, one with a list, and one that needs more than a comparison."""
        first, second, third = (random.randrange(10**5, 10**6) for _ in range(3))
        return (
            cls(3, first, f"assert f(3) == {first}"),
            cls(4, [second, "kestrel"], f"assert f(4) == [{second}, 'kestrel']"),
            cls(5, third, f"assert abs(f(5) - {third}) < 0.5"),
        )

    @classmethod
    def draw_questions(cls) -> tuple[Secret, ...]:
        """Return tests that ask for a value without writing it out, or compare with what Python's library makes."""
        first, second = random.sample(range(10**5, 10**6), 2)
        size = random.randrange(1000, 2000)
        return (
            cls(6, [first, second], f"assert sorted(f(6)) == {sorted((first, second))}"),
            cls(7, first, f"assert isclose(f(7), {first})"),
            cls(8, second, f"assert f(8) == Decimal({second})"),
            cls(9, (first,), f"assert list(f(9)) == [{first}]"),
            cls(10, [0] * size, f"assert len(f(10)) == {size}"),
            cls(11, [second], f"assert {second} in f(11)"),
            cls(12, {first}, f"assert set(f(12)) == {{{first}}}"),
            cls(13, [first], f"assert deque(f(13)) == deque([{first}])"),
            cls(14, [first], f"assert next(iter(f(14))) == {first}"),
        )


@dataclass(frozen=True)
class Forgery:
    name: str
    kind: str
    code: str
    fools_naive: bool = True
    """Whether it fools a judge that compares inside the tested process (tests/sandbox/naive_judge.py)."""


def _of_kind(kind: str, *, fools_naive: bool = True, **codes: str) -> list[Forgery]:
    return [Forgery(name, kind, code.strip() + "\n", fools_naive) for name, code in codes.items()]


EXITS = _of_kind(
    "leaving early",
    exit_at_once="import os\nos._exit(0)",
    exit_in_the_call="import os\ndef f(x): os._exit(0)",
    system_exit="raise SystemExit(0)",
    system_exit_in_the_call="import sys\ndef f(x): sys.exit()",
    exit_handler="import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return None",
    exception_hook="import os, sys\nsys.excepthook = lambda *_: os._exit(0)\ndef f(x): return None",
    exit_in_a_finaliser="""
import os
class Late:
    def __del__(self): os._exit(0)
late = Late()
def f(x): return None
""",
    exit_when_compared="""
import os
class Late:
    def __eq__(self, other): os._exit(0)
    __abs__ = __sub__ = __rsub__ = __iter__ = __str__ = __repr__ = __reduce__ = __hash__ = __eq__
def f(x): return Late()
""",
    exit_by_a_timer="""
import os, signal, time
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.05)
def f(x): time.sleep(10)
""",
    exit_in_a_thread="""
import os, threading, time
def f(x):
    threading.Thread(target=os._exit, args=(0,)).start()
    time.sleep(10)
""",
)

AGREEING = """
class Yes({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __abs__(self): return self
    def __sub__(self, other): return self
    __add__ = __radd__ = __rsub__ = __sub__
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
    def __len__(self): return 1
def f(x): return Yes()
"""

OBJECTS = _of_kind(
    "objects that agree",
    equal_to_all=AGREEING.format(base="object"),
    equal_list=AGREEING.format(base="list"),
    equal_tuple=AGREEING.format(base="tuple"),
    equal_int=AGREEING.format(base="int"),
    equal_float=AGREEING.format(base="float"),
    equal_str=AGREEING.format(base="str"),
    equal_dict=AGREEING.format(base="dict"),
    equal_set=AGREEING.format(base="set"),
    other_class=AGREEING.format(base="object").replace("def __len__", "__class__ = int\n    def __len__"),
    comparison_that_is_true="""
class Truth:
    def __bool__(self): return True
class Yes:
    def __eq__(self, other): return Truth()
    __abs__ = lambda self: self
    __sub__ = __lt__ = __eq__
    __sub__ = lambda self, other: self
    __hash__ = lambda self: 0
def f(x): return Yes()
""",
    equal_by_metaclass="""
class Meta(type):
    def __eq__(cls, other): return True
    def __hash__(cls): return 0
    def __sub__(cls, other): return cls
    def __abs__(cls): return cls
    def __lt__(cls, other): return True
class Yes(metaclass=Meta): pass
def f(x): return Yes
""",
) + _of_kind(
    "objects that agree",
    fools_naive=False,
    values_that_compare_with_nothing="def f(x): return float('nan')",
    source_as_value="""
class Text(str):
    def __repr__(self): return "0) or True or (0"
def f(x): return Text("') or True or ('")
""",
    tagged_answer="def f(x): return ['int', '0x1']",
)

PATCHES = _of_kind(
    "patched machinery",
    builtin_exec="import builtins\nbuiltins.exec = lambda *_: None\nbuiltins.eval = lambda *_: True\ndef f(x): pass",
    builtin_compile="""
import builtins
compile_ = builtins.compile
builtins.compile = lambda source, *rest, **named: compile_("True", *rest, **named)
builtins.exec = lambda code, *rest: None
def f(x): pass
""",
    driver_functions="""
import sys
main = sys.modules["__main__"].__dict__
for name, value in list(main.items()):
    if callable(value) and not name.startswith("__"): main[name] = lambda *_, **__: True
def f(x): pass
""",
    every_function="""
import gc, os, types
def yes(*_, **__): return True
for found in gc.get_objects():
    # Those of the judge, by their file's name; the library must go on working.
    if isinstance(found, types.FunctionType) and os.sep + "lib" not in found.__code__.co_filename and found is not yes:
        try: found.__code__ = yes.__code__
        except ValueError: pass
def f(x): pass
""",
    tracing="""
import os, sys
def leave(frame, event, argument):
    if event == "exception" or event == "return": os._exit(0)
    return leave
frame = sys._getframe()
while frame: frame.f_trace = leave; frame = frame.f_back
sys.settrace(leave)
def f(x): pass
""",
    profiling="""
import os, sys
sys.setprofile(lambda frame, event, argument: event == "return" and frame.f_code.co_name == "f" and os._exit(0))
def f(x): pass
""",
) + _of_kind(
    "patched machinery",
    fools_naive=False,
    isinstance_and_type="""
import builtins
builtins.isinstance = builtins.issubclass = builtins.callable = lambda *_: True
builtins.all = builtins.any = builtins.bool = lambda *_: True
builtins.len = lambda *_: 1
def f(x): return None
""",
    json_encoder="""
import json, json.encoder
class Encoder(json.JSONEncoder):
    def encode(self, value): return '{"value": true}'
    def iterencode(self, value, **_): yield '{"value": true}'
json.JSONEncoder = json.encoder.JSONEncoder = Encoder
json._default_encoder = Encoder()
json.dumps = lambda *_, **__: '{"value": true, "passed": true}'
def f(x): return None
""",
    writing="""
import os
write = os.write
os.write = lambda descriptor, data: write(descriptor, b'{"value": true}\\n') and len(data)
def f(x): return None
""",
    import_hook="""
import sys
class Everything(dict):
    def __missing__(self, name): return True
for name in ("json", "ast", "operator", "leafe_verl", "leafe_verl.sandbox.judge"): sys.modules[name] = Everything()
def f(x): return None
""",
    left_for_the_next_run="""
import builtins, os, sys
builtins.expected = sys.expected = os.environ["EXPECTED"] = "True"
int.__eq__ = lambda *_: True
def f(x): return None
""",
)

# Finds `assert f(<literal>) <anything> <literal>` in a text, and answers from what it found.
_FROM_TEXT = r"""
import re
known = {}
def learn(text):
    for call, wanted in re.findall(r"assert f\((\d+)\) == (\d+)", text): known[int(call)] = int(wanted)
    for call, wanted in re.findall(r"assert f\((\d+)\) == (\[.*?\])", text): known[int(call)] = eval(wanted)
    for call, wanted in re.findall(r"assert abs\(f\((\d+)\) - (\d+)", text): known[int(call)] = int(wanted)
def f(x): return known.get(x)
"""

READING = _of_kind(
    "reading the tests",
    frames=_FROM_TEXT
    + """
import sys
frame = sys._getframe()
while frame:
    for value in (*frame.f_locals.values(), *frame.f_globals.values()): learn(repr(value).replace("\\\\", ""))
    frame = frame.f_back
""",
    objects_of_the_collector=_FROM_TEXT
    + """
import gc
for found in gc.get_objects():
    if type(found) in (list, tuple): learn(" ".join(each for each in found if type(each) is str))
""",
    constants_of_the_code=_FROM_TEXT
    + """
import sys
frame = sys._getframe()
while frame:
    for constant in frame.f_code.co_consts: learn(str(constant))
    frame = frame.f_back
""",
    arguments_and_file=_FROM_TEXT
    + """
import sys
for source in (*sys.orig_argv, sys.argv[0], "/proc/self/cmdline", "/proc/self/environ"):
    learn(source)
    try: learn(open(source, errors="replace").read())
    except OSError: pass
""",
    disk=_FROM_TEXT
    + """
import glob
for path in [*glob.glob("*"), *glob.glob("../*"), *glob.glob("/tmp/*/*.py")]:
    try: learn(open(path).read(10**5))
    except (OSError, UnicodeDecodeError): pass
""",
    own_memory=_FROM_TEXT
    + """
with open("/proc/self/mem", "rb") as memory:
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw" in line and end - start < 2**26:
            memory.seek(start)
            try: learn(memory.read(end - start).decode("latin-1"))
            except OSError: pass
""",
    source_of_the_caller=_FROM_TEXT
    + """
import inspect, sys
frame = sys._getframe()
while frame:
    try: learn(inspect.getsource(frame))
    except (OSError, TypeError): pass
    frame = frame.f_back
""",
)

CHANGING = _of_kind(
    "changing the tests",
    emptied_lists="""
import gc, sys
for found in gc.get_objects():
    if type(found) is list and found and all(type(each) is str and "f(" in each for each in found): found.clear()
def f(x): pass
""",
    emptied_names="""
import sys
frame = sys._getframe()
while frame:
    for name, value in list(frame.f_globals.items()):
        if type(value) in (list, tuple) and "f(" in repr(value): frame.f_globals[name] = type(value)()
    frame = frame.f_back
def f(x): pass
""",
    rewritten_memory="""
import re, sys
def f(x): pass
with open("/proc/self/mem", "r+b") as memory:
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw" not in line or end - start > 2**26: continue
        memory.seek(start)
        try: content = memory.read(end - start)
        except OSError: continue
        # In the text of each test, which is longer, a comment takes the assert's place.
        for found in re.finditer(rb"assert (abs\\()?f\\(", content):
            memory.seek(start + found.start())
            memory.write(b"1#")
""",
)

CHANNEL = _of_kind(
    "a forged answer",
    every_descriptor="""
import os
for descriptor in range(64):
    try: os.write(descriptor, b'passed\\n')
    except OSError: pass
os._exit(0)
""",
    printed="import os\nprint('passed', flush=True)\nos._exit(0)",
    printed_at_exit="import atexit, os\natexit.register(print, 'passed')\natexit.register(os._exit, 0)\ndef f(x): pass",
) + _of_kind(
    "a forged answer",
    fools_naive=False,
    answer_lines="""
import os
LINES = (b'{"confinement": ["landlock", "seccomp"]}', b'{"defined": true}', *[b'{"value": true}'] * 4)
for descriptor in range(3, 64):
    try: os.write(descriptor, b"\\n".join(LINES) + b"\\n")
    except OSError: pass
os._exit(1)
""",
    answer_with_a_verdict="""
import json, os
LINE = json.dumps({"value": True, "passed": True, "failure": None, "returncode": 0, "stdout": "passed", "tests": []})
for descriptor in range(3, 64):
    try: os.write(descriptor, (LINE + "\\n").encode() * 5)
    except OSError: pass
os._exit(1)
""",
    tokens_that_match_everything="print('nan inf * .* None 1e999')\ndef f(x): return float('inf')",
)

_LYING = """
class Lying({base}):
    __eq__ = __contains__ = __lt__ = __gt__ = __le__ = __ge__ = lambda *_: True
    __ne__ = lambda *_: False
    __hash__ = lambda self: 0
    __len__ = __index__ = __int__ = lambda self: 1500
    __iter__ = lambda self: iter([self])
    __next__ = lambda self: self
    __str__ = __repr__ = lambda self: "0) or True or (0"
    numerator = denominator = year = month = day = start = stop = step = property(lambda self: self)
    as_integer_ratio = lambda self: (self, self)
def f(x): return {made}
"""

VALUES = _of_kind(
    "values that agree",
    fools_naive=False,
    deque="from collections import deque" + _LYING.format(base="deque", made="Lying()"),
    counter="from collections import Counter" + _LYING.format(base="Counter", made="Lying()"),
    ordered_dict="from collections import OrderedDict" + _LYING.format(base="OrderedDict", made="Lying()"),
    decimal="from decimal import Decimal" + _LYING.format(base="Decimal", made="Lying(1)"),
    fraction="from fractions import Fraction" + _LYING.format(base="Fraction", made="Lying(1)"),
    date="import datetime" + _LYING.format(base="datetime.date", made="Lying(2024, 1, 1)"),
    timedelta="import datetime" + _LYING.format(base="datetime.timedelta", made="Lying(1)"),
    own_iterator=_LYING.format(base="object", made="Lying()"),
    yielded=_LYING.format(base="object", made="(Lying() for _ in range(1500))"),
    mapped=_LYING.format(base="int", made="map(Lying, range(1500))"),
    keys=_LYING.format(base="object", made="{Lying(): Lying()}.keys()"),
    items=_LYING.format(base="object", made="{Lying(): Lying()}.items()"),
    keys_of_own_dict=_LYING.format(base="dict", made="Lying().keys()"),
    iterator_of_own_list=_LYING.format(base="list", made="iter(Lying())"),
    zone="import datetime"
    + _LYING.format(base="datetime.tzinfo", made="datetime.datetime(2024, 1, 1, tzinfo=Lying())"),
    patterns_own_text="import re" + _LYING.format(base="str", made="re.match('.*', Lying('x'))"),
    names_of_the_library="""
isclose = Decimal = deque = sorted = list = len = set = iter = next = lambda *_, **__: 1
import builtins, collections, decimal, math
builtins.sorted = builtins.list = builtins.len = builtins.set = builtins.iter = builtins.next = lambda *_: 1
math.isclose = collections.deque = decimal.Decimal = lambda *_, **__: 1
def f(x): return 1
""",
    classes_of_the_library="""
import collections, datetime, decimal, fractions, sys
class Lying: pass
for module in (collections, datetime, decimal, fractions, sys):
    for name in ("deque", "Counter", "date", "Decimal", "Fraction"): setattr(module, name, Lying)
def f(x): return Lying()
""",
    ending_as_source="""
class Text(Exception):
    def __str__(self): return "') or True or ('"
def f(x):
    yield 1
    raise Text
""",
    answered_iterators="""
import os
LINES = [b'{"confinement": []}', b'{"defined": true}']
LINES += [b'{"value": ["iterator", ["generator", [["Match", [1]], true], "\\') or True or (\\'"]]}'] * 9
for descriptor in range(3, 64):
    try: os.write(descriptor, b"\\n".join(LINES) + b"\\n")
    except OSError: pass
os._exit(0)
""",
    answered_unknown="""
import os
LINES = [b'{"value": ["type", ["eval"]]}', b'{"value": ["deque", [["range", [0, 1000000000000, 1]], null]]}']
for descriptor in range(3, 64):
    try: os.write(descriptor, b'{"defined": true}\\n' + b"\\n".join(LINES) + b"\\n")
    except OSError: pass
os._exit(0)
""",
    encoders_tables="""
import gc, types
for found in gc.get_objects():
    if type(found) is dict and ("Match" in found or types.GeneratorType in found): found.clear()
def f(x): return (x for x in [True])
""",
)

FORGERIES: tuple[Forgery, ...] = tuple(EXITS + OBJECTS + PATCHES + READING + CHANGING + CHANNEL + VALUES)
