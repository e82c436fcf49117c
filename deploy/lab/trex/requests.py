"""Connection requests of clients that never come twice: a TRex stateless profile.

The device makes an entry for each that its real server never answers, so this measures new flows and what happens
when their table is full:

    start -f requests.py -p 0 -m 300kpps -t --service 10.0.0.100 --port 80
"""

import argparse

from trex_stl_lib.api import *

# 198.18.0.0/15 is set aside for measurements (RFC 2544 appendix C.2.2).
FIRST_CLIENT = 0xC6120000
CLIENTS = 1 << 17


class Requests:
    """One stream: each packet has a random address and a random port."""

    def get_streams(self, tunables, **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--service", default="10.0.0.100", help="address of the service")
        parser.add_argument("--port", type=int, default=80, help="its TCP port")
        args = parser.parse_args(tunables)
        packet = Ether() / IP(src="198.18.0.0", dst=args.service) / TCP(dport=args.port, flags="S")
        program = STLScVmRaw(
            [
                STLVmFlowVar(
                    "client",
                    min_value=FIRST_CLIENT,
                    max_value=FIRST_CLIENT + CLIENTS - 1,
                    size=4,
                    op="random",
                ),
                STLVmWrFlowVar(fv_name="client", pkt_offset="IP.src"),
                STLVmFlowVar("port", min_value=1024, max_value=65535, size=2, op="random"),
                STLVmWrFlowVar(fv_name="port", pkt_offset="TCP.sport"),
                STLVmFixChecksumHw(
                    l3_offset="IP",
                    l4_offset="TCP",
                    l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP,
                ),
            ]
        )
        return [STLStream(packet=STLPktBuilder(pkt=packet, vm=program), mode=STLTXCont(pps=1))]


def register():
    """What TRex asks a profile for."""
    return Requests()
