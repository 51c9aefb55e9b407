"""Asks a broker what it can do before any client is made: so a dead address, a wrong listener and an old broker are told apart.

librdkafka tries for ever and says of all these only that no broker is up; it also does not tell a broker's version. So one
ApiVersions request of version 0 goes over a plain socket. Kafka answers it before it asks who we are (KIP-43), in every version:

    request  = length(4) 00 12 (ApiVersions)  00 00 (version)  correlation(4)  client id (length(2), text)
    response = length(4) correlation(4) error(2) count(4) count × (api(2) lowest(2) highest(2))

A broker's version follows from the lowest version of Fetch that it still answers: Kafka 4.0 dropped those below 4 (KIP-896).
"""

import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import Final

from engine.kafka.connection import Connection
from engine.kafka.faults import BrokerTooOld, BrokerUnreachable, KafkaFault, NotKafka, TlsFailed

FETCH: Final = 1
FETCH_LOWEST_SINCE_4: Final = 4
CLIENT_ID: Final = b"consentinel-probe"
CORRELATION: Final = 4711
ADDRESSES_MAX: Final = 8  # asked at once: more would be a thread each for an answer that one of them gives
GRACE_SECS: Final = 0.5  # so that an address that is too slow can say so itself
RESPONSE_BYTES_MAX: Final = 65_536  # Kafka 4.1 has some 80 APIs of 6 octets
TLS_RECORDS: Final = (0x15, 0x16)  # alert, handshake: the first octet of whatever a TLS listener says
Apis = dict[int, tuple[int, int]]
Address = tuple[str, int]  # host, port


def probe(connection: Connection, timeout_secs: float) -> Apis:
    """{API: (lowest, highest version)} of the first address that answers as Kafka does.

    Raises the fault of the address that came furthest, `BrokerTooOld`, and `SettingImpossible`.
    """
    addresses = connection.addresses()[:ADDRESSES_MAX]
    context = connection.security.context() if connection.security.tls else None
    answers = _of_each(addresses, lambda address: _ask(context, address, timeout_secs), timeout_secs)
    faults = [answer for answer in answers if isinstance(answer, KafkaFault)]
    found = [answer for answer in answers if isinstance(answer, dict)]
    if not found:
        raise max(faults, key=lambda fault: _FURTHEST.index(type(fault)))
    if found[0].get(FETCH, (0, 0))[0] < FETCH_LOWEST_SINCE_4:
        raise BrokerTooOld("the broker is older than Apache Kafka 4.0, which is the oldest that works here")
    return found[0]


_FURTHEST: Final = [BrokerUnreachable, NotKafka, TlsFailed]


def _of_each(addresses: Sequence[Address], ask: Callable[[Address], Apis], timeout_secs: float) -> list[Apis | KafkaFault]:
    """What each address answers. A name server that does not answer is not waited for: its thread ends by itself."""
    found: Queue[Apis | KafkaFault] = Queue()

    def one(address: Address) -> None:
        try:
            found.put(ask(address))
        except KafkaFault as fault:
            found.put(fault)

    for address in addresses:
        Thread(target=one, args=(address,), name="probe", daemon=True).start()
    deadline = monotonic() + timeout_secs + GRACE_SECS
    answers: list[Apis | KafkaFault] = []
    while len(answers) < len(addresses) and not any(isinstance(answer, dict) for answer in answers):
        try:
            answers.append(found.get(timeout=max(deadline - monotonic(), 0.001)))
        except Empty:
            answers.append(BrokerUnreachable("kafka.bootstrap: no answer in time, or no name server answers"))
            break
    return answers


def _ask(context: ssl.SSLContext | None, address: Address, timeout_secs: float) -> Apis:
    deadline = monotonic() + timeout_secs
    try:
        plain = socket.create_connection(address, timeout_secs)
    except OSError as fault:
        raise BrokerUnreachable(f"kafka.bootstrap: {_why_not(fault)}") from None
    with plain:
        if context is None:
            return _exchange(plain, deadline)
        try:
            with context.wrap_socket(plain, server_hostname=address[0]) as secured:
                return _exchange(secured, deadline)
        except ssl.SSLCertVerificationError as fault:
            raise TlsFailed(f"the broker's certificate is not trusted: {fault.verify_message}; see kafka.ca_file") from None
        except ssl.SSLError as fault:
            raise TlsFailed(_why_no_tls(fault)) from None
        except OSError:
            raise TlsFailed("the TLS connection was closed: does this listener speak TLS? see kafka.security_protocol") from None


def _exchange(connected: socket.socket, deadline: float) -> Apis:
    body = struct.pack(">hhih", 18, 0, CORRELATION, len(CLIENT_ID)) + CLIENT_ID
    try:
        connected.sendall(struct.pack(">i", len(body)) + body)
        head = _read(connected, 4, deadline)
        if head[0] in TLS_RECORDS:
            raise NotKafka("the listener speaks TLS: see kafka.security_protocol")
        (length,) = struct.unpack(">i", head)
        if not 10 <= length <= RESPONSE_BYTES_MAX:
            raise NotKafka("what answers there is not Kafka: see kafka.bootstrap")
        return _parsed(_read(connected, length, deadline))
    except ssl.SSLError:
        raise
    except TimeoutError:
        raise BrokerUnreachable("kafka.bootstrap: something listens there and does not answer in time") from None
    except OSError:
        raise NotKafka("the connection was closed without an answer: see kafka.security_protocol and kafka.bootstrap") from None


def _parsed(answer: bytes) -> Apis:
    correlation, _error, count = struct.unpack_from(">ihi", answer)
    if correlation != CORRELATION or len(answer) != 10 + 6 * count:
        raise NotKafka("what answers there is not Kafka: see kafka.bootstrap")
    return {api: (lowest, highest) for api, lowest, highest in struct.iter_unpack(">hhh", answer[10:])}


def _read(connected: socket.socket, size: int, deadline: float) -> bytes:
    found = b""
    while len(found) < size:
        connected.settimeout(max(deadline - monotonic(), 0.001))
        part = connected.recv(size - len(found))
        if not part:
            raise ConnectionResetError
        found += part
    return found


def _why_not(fault: OSError) -> str:
    match fault:
        case socket.gaierror():
            return "no such host"
        case ConnectionRefusedError():
            return "nothing listens there"
        case TimeoutError():
            return "no connection in time"
        case _:
            return "no way to that host"


def _why_no_tls(fault: ssl.SSLError) -> str:
    reason = (fault.reason or "").replace("_", " ").lower()
    if "wrong version" in reason or "record layer" in reason or "unexpected eof" in reason:
        return "this listener does not speak TLS: see kafka.security_protocol"
    if "alert" in reason and any(word in reason for word in ("certificate", "unknown ca", "handshake failure")):
        return f"the broker does not take our certificate ({reason}): see kafka.cert_file"
    return f"no TLS connection ({reason or 'closed'}): see kafka.ca_file and kafka.cert_file"
