"""Solutions that solve nothing and try to pass: each is put after a prompt, `ENTRY` being what it must define."""

from __future__ import annotations

_EQUAL_TO_ALL = """
class Equal{base}:
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: True
    __hash__ = lambda self: 0
    __bool__ = lambda self: True
"""

FAKES = {
    "sys.exit while loading": "import sys\nsys.exit(0)",
    "raise SystemExit while loading": "raise SystemExit(0)",
    "os._exit while loading": "import os\nos._exit(0)",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef ENTRY(*_): return None",
    "exit in the exception hook": (
        "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\ndef ENTRY(*_): raise ValueError"
    ),
    "sys.exit when called": "import sys\ndef ENTRY(*_): sys.exit(0)",
    "os._exit when called": "import os\ndef ENTRY(*_): os._exit(0)",
    "raise KeyboardInterrupt": "def ENTRY(*_): raise KeyboardInterrupt",
    "raise GeneratorExit": "def ENTRY(*_): raise GeneratorExit",
    "exit in the trace": ("import os, sys\nsys.settrace(lambda *_: os._exit(0))\ndef ENTRY(*_): return None"),
    "exit in the profile": (
        "import os, sys\nsys.setprofile(lambda *_: os._exit(0))\ndef ENTRY(*_): return None"
    ),
    "patch check by the collector": """
import gc, types
def ENTRY(*_):
    for found in gc.get_objects():
        if isinstance(found, types.FunctionType) and found.__name__ in ("check", "_failure"):
            found.__code__ = (lambda *_: "").__code__
""",
    "patch functions of the sandbox": """
import sys
def ENTRY(*_):
    for name, module in list(sys.modules.items()):
        if name.startswith("nanochat_pl"):
            for key in ("receive", "send", "check", "unpack"):
                if hasattr(module, key):
                    setattr(module, key, lambda *_: ["value", True])
""",
    "patch through the frames": """
import sys
def ENTRY(*_):
    frame = sys._getframe()
    while frame:
        frame.f_globals["passed"] = frame.f_globals["reason"] = ""
        frame.f_builtins["AssertionError"] = type("Never", (Exception,), {})
        frame = frame.f_back
""",
    "object equal to everything": _EQUAL_TO_ALL.format(base="") + "\ndef ENTRY(*_): return Equal()",
    "int equal to everything": _EQUAL_TO_ALL.format(base="(int)")
    + "\ndef ENTRY(*_): return Equal(-987654321)",
    "str equal to everything": _EQUAL_TO_ALL.format(base="(str)") + "\ndef ENTRY(*_): return Equal('?!')",
    "list equal to everything": _EQUAL_TO_ALL.format(base="(list)") + "\ndef ENTRY(*_): return Equal(['?!'])",
    "not a number": "def ENTRY(*_): return float('nan')",
    "patch AssertionError": (
        "import builtins\nbuiltins.AssertionError = type('Never', (Exception,), {})\ndef ENTRY(*_): return None"
    ),
    "patch the built-in functions": """
import builtins
builtins.abs = lambda *_: 0
builtins.all = lambda *_: True
builtins.sorted = builtins.list = lambda *_: []
def ENTRY(*_): return None
""",
    "print that it passed": """
def ENTRY(*_):
    print('PASSED')
    print('[true, ""]')
""",
    "write a verdict to every descriptor": """
import os
def ENTRY(*_):
    message = b'[true, ""]'
    for number in range(64):
        try:
            os.write(number, len(message).to_bytes(4, 'big') + message)
        except OSError:
            pass
""",
    "write answers in advance": """
import os
for number in range(64):
    try:
        os.write(number, (b'\\x00\\x00\\x00\\x0f["value", true]') * 100)
    except OSError:
        pass
def ENTRY(*_): return None
""",
    "write garbage as answers": """
import os
def ENTRY(*_):
    for number in range(64):
        try:
            os.write(number, b'\\xff' * 1000)
        except OSError:
            pass
""",
    "answer at great length": "def ENTRY(*_): return 'x' * 10**7",
    "answer in great depth": """
def ENTRY(*_):
    found = []
    for _ in range(100000):
        found = [found]
    return found
""",
    "lines for tests to be commented out": "def ENTRY(*_): return None\n'''",
    "define check": "def ENTRY(*_): return None\ndef check(candidate): pass\nMETADATA = {}",
    "redefine what stands before": """
import math
def poly(*_): return 0
def encode_cyclic(text): return text
def encode_shift(text): return text
def ENTRY(text, *_): return text
""",
    "return nothing": "def ENTRY(*_): return None",
    "return everything": "def ENTRY(*_): yield from iter(int, 1)",
}
