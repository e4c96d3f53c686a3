"""What an error says of the system is 0, errno or the name of one: a number that is written down tells of another."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"\berr_set\(((?:[^,()]|\([^()]*\))*),\s*([^,()]+),")
ALLOWED = re.compile(r"0|errno|sys|rc|error|int sys|E[A-Z]+")


def invented(text):
    return [f"{code.strip()}, {number}" for code, number in CALL.findall(text) if not ALLOWED.fullmatch(number.strip())]


def test_no_error_invents_a_number_of_the_system():
    calls = 0
    for path in sorted((ROOT / "csrc").rglob("*.[ch]")):
        text = path.read_text()
        calls += len(CALL.findall(text))
        assert invented(text) == [], path
    assert calls > 100


def test_an_invented_number_is_found():
    assert invented('rc = err_set(DSM_EINVAL, 1, "x");') == ["DSM_EINVAL, 1"]
    assert invented('err_set(sys == (1) ? DSM_ESYS : -rc, 7,\n"x")') == ["sys == (1) ? DSM_ESYS : -rc, 7"]
    assert (
        invented('err_set(DSM_EINVAL, 0, "x") + err_set(DSM_EPEER, errno, "x") + err_set(DSM_EACCESS, EACCES, "x")')
        == []
    )
