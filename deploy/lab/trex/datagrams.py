"""Datagrams to a service of the pair, as `cargo xtask bench link` sends them: a TRex stateless profile.

In TRex's console, with the device's front port at port 0 and the real server's network at port 1:

    start -f datagrams.py -p 0 -m 50% -t --service 10.0.0.100 --port 9 --frame imix --flows 65536
"""

import argparse

from trex_stl_lib.api import *

# 198.18.0.0/15 is set aside for measurements (RFC 2544 appendix C.2.2).
FIRST_CLIENT = 0xC6120000
CLIENTS = 1 << 17
# Length on the wire, and how many of twelve frames have it.
FRAMES = {
    "64": [(64, 12)],
    "imix": [(64, 7), (594, 4), (1518, 1)],
    "1518": [(1518, 12)],
}
CHECK_SEQUENCE = 4
# Datagrams a second of the stream by which latency is measured.
PROBES = 1000


class Datagrams:
    """One stream for each length, and one that is measured."""

    def _packet(self, args, length, clients):
        headers = (
            Ether()
            / IP(src=address(FIRST_CLIENT), dst=args.service)
            / UDP(sport=1024, dport=args.port, chksum=0)
        )
        padding = max(0, length - CHECK_SEQUENCE - len(headers)) * "x"
        program = []
        if clients > 1:
            last = FIRST_CLIENT + min(clients, CLIENTS) - 1
            program += [
                STLVmFlowVar("client", min_value=FIRST_CLIENT, max_value=last, size=4, op="inc"),
                STLVmWrFlowVar(fv_name="client", pkt_offset="IP.src"),
            ]
            ports = -(-clients // CLIENTS)
            if ports > 1:
                # Steps at another pace than the addresses, so that all pairs are met.
                program += [
                    STLVmFlowVar("port", min_value=1024, max_value=1024 + ports, size=2, op="random"),
                    STLVmWrFlowVar(fv_name="port", pkt_offset="UDP.sport"),
                ]
            program.append(STLVmFixIpv4(offset="IP"))
        return STLPktBuilder(pkt=headers / padding, vm=STLScVmRaw(program))

    def get_streams(self, tunables, **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--service", default="10.0.0.100", help="address of the service")
        parser.add_argument("--port", type=int, default=9, help="its UDP port")
        parser.add_argument("--frame", choices=FRAMES, default="64", help="frames on the wire")
        parser.add_argument("--flows", type=int, default=65536, help="number of flows")
        args = parser.parse_args(tunables)
        streams = [
            STLStream(packet=self._packet(args, length, args.flows), mode=STLTXCont(pps=share))
            for length, share in FRAMES[args.frame]
        ]
        # Of one flow and a fixed rate, which `-m` does not change.
        streams.append(
            STLStream(
                packet=self._packet(args, 82, 1),
                mode=STLTXCont(pps=PROBES),
                flow_stats=STLFlowLatencyStats(pg_id=1),
            )
        )
        return streams


def address(number):
    """Dotted form of an IPv4 address."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def register():
    """What TRex asks a profile for."""
    return Datagrams()
