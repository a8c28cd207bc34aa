//! The kinds of events that there are.

/// What a run on this host need not make: its kernel may have no guard, and not every protocol. Written as the daemon writes them.
pub(crate) const NOT_MADE_HERE: &[(&str, &str)] = &[
    (
        "guard",
        r#"{"version":1,"kind":"guard","time":"2026-11-26T01:02:03.000000001Z","sequence":9000001,"session":{"id":"01a20782-afe2-711f-9837-588be5ca7da2","agent":"guarded","owner":"alice@example.com","operator":"tests","model":"none","purpose":"test","envelope_digest":"ab"},"process":{"pid":71,"key":"0b9a5a3c-0000-4000-8000-000000000000:71:5","tid":71,"uid":0,"comm":"python3","path":"/usr/bin/python3","lineage":[{"pid":70,"comm":"sh","path":"/bin/sh"},{"pid":71,"comm":"python3","path":"/usr/bin/python3"}]},"operation":"task_kill","verdict":"deny","refused":true,"reason":"guarded","rule":null,"object":{"pid":1,"number":9}}"#,
    ),
    (
        "guard",
        r#"{"version":1,"kind":"guard","time":"2026-11-26T01:02:03.000000002Z","sequence":9000002,"session":{"id":"01a20782-afe2-711f-9837-588be5ca7da2","agent":"guarded","owner":"alice@example.com","operator":"tests","model":"none","purpose":"test","envelope_digest":"ab"},"process":{"pid":71,"key":null,"tid":71,"uid":0,"comm":"python3","path":null,"lineage":[]},"operation":"unix_stream_connect","verdict":"allow","refused":false,"reason":"allow-rule","rule":"the-named","object":{"number":0,"name":"/run/postgresql/.s.PGSQL.5432"}}"#,
    ),
    (
        "guard",
        r#"{"version":1,"kind":"guard","time":"2026-11-26T01:02:03.000000003Z","sequence":9000003,"process":{"pid":71,"key":null,"comm":"python3","path":null,"lineage":[]},"operation":"socket_create","verdict":"deny","refused":true,"reason":"guarded","rule":null,"object":{"family":17,"number":768}}"#,
    ),
    (
        "egress",
        r#"{"version":1,"kind":"egress","time":"2026-11-26T01:02:03.000000004Z","sequence":9000004,"session":{"id":"01a20782-afe2-711f-9837-588be5ca7da2","agent":"handed","owner":"team a","operator":"tests","model":"example/m","purpose":"test","task":"T-1","labels":{"a/b":"c"},"envelope_digest":"ab"},"process":null,"operation":"packet-out","protocol":"132","destination":{"address":"2001:db8::1","port":443},"verdict":"deny","refused":true,"reason":"header","rule":null,"socket":0,"foreign":true}"#,
    ),
    (
        "egress-repeated",
        r#"{"version":1,"kind":"egress-repeated","time":"2026-11-26T01:02:03.000000006Z","sequence":9000006,"session":{"id":"01a20782-afe2-711f-9837-588be5ca7da2","agent":"handed","owner":"team a","operator":"tests","model":"example/m","purpose":"test","envelope_digest":"ab"},"process":null,"operation":"packet","protocol":"several","destination":null,"verdict":"deny","refused":true,"reason":"several","rule":null,"socket":0,"repeats":{"count":7,"since":"2026-11-26T01:02:02.000000001Z","duration_ms":1000},"detail":"of sockets and addresses that were too many to be counted one by one"}"#,
    ),
    (
        "sink-test",
        r#"{"version":1,"kind":"sink-test","time":"2026-11-26T01:02:03.000000005Z","sequence":0,"detail":"sent by `enforcer sink test`"}"#,
    ),
];

/// All that there are. A kind that is missing in the run is missing in the test.
pub(crate) const EVERY_KIND: &[&str] = &[
    "audit-checkpoint",
    "authority-changed",
    "connection-closed",
    "credential-issued",
    "daemon-fault",
    "daemon-started",
    "daemon-stopped",
    "datagrams",
    "egress",
    "egress-repeated",
    "envelope-accepted",
    "envelope-replaced",
    "escape-sign",
    "exec",
    "exit",
    "file-measured",
    "finding",
    "fork",
    "guard",
    "image-measured",
    "listening",
    "listening-ended",
    "records-lost",
    "request-refused",
    "session-ended",
    "session-expired",
    "session-granted",
    "session-quarantined",
    "session-released",
    "session-revoked",
    "session-started",
    "sink-test",
    "sockets-destroyed",
    "tamper-sign",
];
