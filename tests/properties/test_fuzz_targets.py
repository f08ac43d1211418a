"""Whatever bytes come, what reads them reads or refuses them: no other error, and no password in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import ROOT
from tests.support.targets import TARGETS

SOAK = int(os.environ.get("PGBUS_SOAK", "0"))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
hostile = st.sampled_from([
    b'{"number": 1e400, "text": ""}', b"[" * 5_000 + b"]" * 5_000, b'"' + b"\\ud800" + b'"', b"1" * 5_000, b"NaN",
    b'{"number": 1, "number": 2, "text": "\\u0000"}', b"-0", b"\xff\xfe", b'{"__proto__": 1}', b"\xef\xbb\xbf{}",
    b"postgresql://[::1", b"h:99999999999/x", b"h%zz/x", b"/x?host=a,b,c&port=1,2", b"a.*.**.", b".", b"*" * 300,
])  # fmt: skip
data = st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()) | hostile


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_are_read_or_refused(target: str) -> None:
    @settings(max_examples=20_000 * SOAK or 300)
    @given(data=data)
    @example(data=b"")
    def reads_or_refuses(data: bytes) -> None:
        TARGETS[target](data)

    reads_or_refuses()


ATHERIS = """
import sys, atheris
with atheris.instrument_imports(include=["pgbus"]):
    from tests.support.targets import TARGETS
atheris.Setup([sys.argv[0], "-runs=%d", "-max_len=400", "-rss_limit_mb=4096"], TARGETS[sys.argv[1]])
atheris.Fuzz()
"""


@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris, which is not among the developers' tools")
@pytest.mark.parametrize("target", TARGETS)
def test_atheris_finds_no_bytes_that_are_neither(target: str) -> None:
    code = ATHERIS % (1_000_000 * SOAK or 20_000)
    ended = subprocess.run([sys.executable, "-c", code, target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
