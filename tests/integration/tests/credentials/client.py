# What an agent's program does with libraries that are not ours: `spiffe` of PyPI, and gRPC by itself where that has no call.

import json, os, sys, threading
import grpc

SOCKET = os.environ["SPIFFE_ENDPOINT_SOCKET"]
METADATA = [("workload.spiffe.io", "true")]


def say(*words):
    # In one piece, so that threads do not mix.
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def fields(message):
    """The fields of a message whose fields are all bytes, by number."""
    found, at = {}, 0
    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]; at += 1
            value |= (byte & 0x7F) << shift; shift += 7
            if byte < 0x80:
                return value
    while at < len(message):
        tag = number(); length = number()
        found.setdefault(tag >> 3, []).append(message[at : at + length]); at += length
    return found


def call(channel, method, metadata=METADATA):
    raw = lambda message: message
    stream = channel.unary_stream(f"/SpiffeWorkloadAPI/{method}", request_serializer=raw, response_deserializer=raw)
    return stream(b"", metadata=metadata, timeout=600)


def refusal(body):
    """How gRPC, or the library, was refused."""
    try:
        body()
        return "nothing was refused"
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    except Exception as error:
        return str(error)


def fetch():
    from cryptography.hazmat.primitives import serialization
    from spiffe import JwtSvid, WorkloadApiClient
    with WorkloadApiClient() as client:
        context = client.fetch_x509_context()
        svid = context.default_svid
        domain = svid.spiffe_id.trust_domain
        authorities = context.x509_bundle_set.get_bundle_for_trust_domain(domain).x509_authorities
        assert authorities == client.fetch_x509_bundles().get_bundle_for_trust_domain(domain).x509_authorities
        [issuer] = [one for one in authorities if one.subject == svid.leaf.issuer]
        svid.leaf.verify_directly_issued_by(issuer)
        assert svid.private_key.public_key() == svid.leaf.public_key()
        token = client.fetch_jwt_svid(audience={"reports"}).token
        bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain)
        verified = JwtSvid.parse_and_validate(token, bundle, {"reports"})
        validated = client.validate_jwt_svid(token, "reports")
        pem = serialization.Encoding.PEM
        report = {
            "x509": str(svid.spiffe_id),
            "leaf": svid.leaf.public_bytes(pem).decode(),
            "jwt": str(verified.spiffe_id),
            "validated": str(validated.spiffe_id),
            "token": token,
            "refused": {
                "other audience": refusal(lambda: client.validate_jwt_svid(token, "payroll")),
                "altered": refusal(lambda: client.validate_jwt_svid(token[:-4] + "AAAA", "reports")),
                "two audiences": refusal(lambda: client.fetch_jwt_svid(audience={"a", "b"})),
                "another's": refusal(lambda: client.fetch_jwt_svid(audience={"a"}, subject=sys.argv[2])),
            },
        }
    with grpc.insecure_channel(SOCKET) as channel:
        [wit] = fields(next(call(channel, "FetchWITSVID")))[1]
        wit = fields(wit)
        report["wit"], report["wit_key"] = wit[2][0].decode(), json.loads(wit[3][0])
        [bundle] = fields(next(call(channel, "FetchWITBundles")))[1]
        report["wit_bundle"] = json.loads(fields(bundle)[2][0])
        report["refused"]["no header"] = refusal(lambda: next(call(channel, "FetchX509SVID", [])))
    say(json.dumps(report))


def hold():
    """Keeps streams open; says when they end, and what comes of another try."""
    def watch(channel, method):
        messages = call(channel, method)
        next(messages)
        say("open", method)
        say("ended", method, refusal(lambda: [None for _ in messages]))
    with grpc.insecure_channel(SOCKET) as channel:
        methods = ["FetchX509SVID", "FetchWITSVID", "FetchJWTBundles"]
        threads = [threading.Thread(target=watch, args=(channel, method)) for method in methods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say("again", refusal(lambda: next(call(channel, "FetchX509SVID"))))


def ask():
    """One try for each line that is read."""
    for _ in sys.stdin:
        with grpc.insecure_channel(SOCKET) as channel:
            say(refusal(lambda: next(call(channel, "FetchX509SVID"))))


def burst():
    """More than anybody needs."""
    with grpc.insecure_channel(SOCKET) as channel:
        for _ in range(400):
            say(refusal(lambda: next(call(channel, "FetchWITSVID"))))


{"fetch": fetch, "hold": hold, "ask": ask, "burst": burst}[sys.argv[1]]()
