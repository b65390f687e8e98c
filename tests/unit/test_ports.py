"""Where other machines reach the hub: ports.for_nodes."""

import pytest

from debianized_jupyterhub import ports


@pytest.mark.parametrize("host", ["127.0.1.1", "::1", "0.0.0.0", "localhost"])
def test_name_that_leads_no_further_than_this_machine(host):
    with pytest.raises(ports.Refused, match=f"^{host} in SETTING leads to [0-9.:]+ on this machine, which no other one reaches: see /etc/hosts$"):
        ports.for_nodes(host, 8443, "SETTING")


def test_name_that_leads_nowhere():
    with pytest.raises(ports.Refused, match=r"^no-such\.invalid in SETTING: ."):
        ports.for_nodes("no-such.invalid", 8443, "SETTING")


@pytest.mark.parametrize("host", ["hub..example.org", ".", "x" * 64])
@pytest.mark.parametrize("find", [ports.for_nodes, ports.numeric])
def test_name_that_no_host_can_have(find, host):
    with pytest.raises(ports.Refused, match=r"^[.a-z]+ in SETTING: [A-Za-z ]+$"):
        find(host, 8443, "SETTING")


def test_address_of_a_machine():
    assert ports.for_nodes("192.0.2.1", 8443, "SETTING") == [("192.0.2.1", 8443)]
