"""What HAProxy prints is read as it is meant, and anything else is refused by one exception."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm.haproxy import parse
from webfarm.haproxy.client import BalancerError

# captured from HAProxy 2.6.12
STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 farm1 1 s1-farm1-ws1 127.3.1.1 0 0 77 100 24 8 2 0 6 0 0 0 - 8080 - 0 0 - - 0
3 farm1 2 s1-farm1-ws2 127.3.1.2 0 8 100 100 1 8 2 0 6 0 0 0 - 8080 - 0 0 - - 0
4 farm2 1 s1-farm2-ws1 127.3.2.1 0 1 100 100 24 8 2 0 14 0 0 0 - 8080 - 0 0 - - 0
"""
STAT = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,check_status,check_code,type,\
hrsp_5xx,req_tot,rtime,
farm1,s1-farm1-ws1,0,0,3,0,13,0,DOWN,100,L4CON,,2,7,,3,
farm1,s1-farm1-ws2,1,0,0,0,13,0,UP 1/2,100,* L7OK,200,2,0,,12,
farm1,BACKEND,1,0,4,0,800,0,UP,0,,,1,9,1200,11,
"""
MAP = """0x556b492e1160 0:99 farm1
0x556b492e11f0 100:199 farm2
0x556b492e1280 200:255 farm3"""
PROC = """#<PID>          <type>          <reloads>       <uptime>        <version>
17761           master          1 [failed: 0]   0d00h00m04s     2.6.12-1+deb12u4
# workers
17944           worker          0               0d00h00m01s     2.6.12-1+deb12u4
# old workers
17790           worker          1               0d00h00m43s     2.6.12-1+deb12u4
17791           worker          2               0d00h00m43s     2.6.12-1+deb12u4
# programs
"""
INFO = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 17790\nUptime_sec: 1\nCurrConns: 0\n"


def test_servers_state_is_read() -> None:
    states = parse.servers_state(STATE)
    assert [(s.server, s.uweight, s.iweight, s.admin) for s in states] == [
        ("s1-farm1-ws1", 77, 100, "ready"),
        ("s1-farm1-ws2", 100, 100, "drain"),
        ("s1-farm2-ws1", 100, 100, "maint"),
    ]


def test_state_file_has_every_server_running_and_nothing_else_changed() -> None:
    kept = parse.as_running(STATE)
    before, after = parse.servers_state(STATE), parse.servers_state(kept)
    assert {s.operational for s in after} == {2}
    assert [(s.backend, s.server, s.uweight, s.admin) for s in before] == [
        (s.backend, s.server, s.uweight, s.admin) for s in after
    ]
    assert parse.as_running(kept) == kept
    assert kept.split("\n")[:2] == STATE.split("\n")[:2]


@pytest.mark.parametrize(
    ("bits", "state"),
    [
        (0, "ready"),
        (8, "drain"),
        (16, "drain"),
        (1, "maint"),
        (4, "maint"),
        (9, "maint"),
        (32, "ready"),
    ],
)
def test_admin_bits(bits: int, state: str) -> None:
    assert parse.admin_state(bits) == state


def test_stat_is_read() -> None:
    rows = parse.stat(STAT)
    assert [row["svname"] for row in rows] == ["s1-farm1-ws1", "s1-farm1-ws2", "BACKEND"]
    assert parse.number(rows[0], "scur") == 3
    assert parse.number(rows[2], "check_code") == 0
    assert [parse.check_result(row) for row in rows] == ["L4CON", "L7OK/200", ""]
    assert parse.counters(rows[2]) == {"requests": 1200, "errors": 9, "response_ms": 11}
    assert parse.counters({}) == {"requests": 0, "errors": 0, "response_ms": 0}


def test_map_processes_and_info_are_read() -> None:
    assert parse.map_entries(MAP) == [("0:99", "farm1"), ("100:199", "farm2"), ("200:255", "farm3")]
    assert parse.map_entries("") == []
    assert parse.processes(PROC) == parse.Processes(17761, (17944,), (17790, 17791))
    assert parse.info(INFO)["Pid"] == "17790"


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (parse.servers_state, "No such backend."),
        (parse.servers_state, "2\n# be_id"),
        (parse.servers_state, "1"),
        (parse.servers_state, "\n".join(STATE.split("\n")[:2]) + "\n3 farm1 1 s1"),
        (parse.servers_state, "\n".join(STATE.split("\n")[:2]) + "\n3 f 1 s a x 0 77 100"),
        (parse.stat, "Permission denied"),
        (parse.stat, STAT + "farm1,short\n"),
        (parse.map_entries, "Unknown map identifier. Please use #<id> or <file>."),
        (parse.processes, "Permission denied"),
        (parse.info, "Permission denied"),
    ],
)
def test_anything_else_is_refused(reader: object, text: str) -> None:
    with pytest.raises(BalancerError):
        reader(text)  # type: ignore[operator]


@given(
    st.one_of(
        st.text(),
        st.builds(lambda a, b: STATE[:a] + b + STATE[a:], st.integers(0, 700), st.text()),
        st.builds(lambda a, b: STAT[:a] + b + STAT[a:], st.integers(0, 300), st.text()),
        st.builds(lambda a, b: PROC[:a] + b + PROC[a:], st.integers(0, 300), st.text()),
    )
)
def test_no_text_breaks_a_parser(text: str) -> None:
    for reader in (parse.servers_state, parse.stat, parse.map_entries, parse.processes, parse.info):
        with contextlib.suppress(BalancerError):
            reader(text)
    parse.as_running(text)
