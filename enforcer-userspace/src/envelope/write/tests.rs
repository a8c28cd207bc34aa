use super::super::parse;
use super::super::test_support::read;
use super::super::test_support::whole::{whole, without_lines};
use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_reads_as_the_same(envelope in whole()) {
        let text = write(&envelope);
        let again = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(without_lines(again), envelope, "{}", text);
    }
}

#[test]
fn writes_as_one_would() {
    let envelope = read(
        "loopback: allow, requires: [egress, names],
         egress: [{name: a, to: [10.0.0.0/8, '::1', api.example.com, '*.example.com', 'agent:b'], ports: [443, 8000-8010], protocol: tcp},
                  {name: ping, to: ['2001:db8::/32'], protocol: icmp}],
         deny: [{name: d, to: [10.0.0.1], ports: any, protocol: any, mode: audit}],
         listen: [{name: web, from: [10.0.0.0/8], ports: [80, 443], protocol: any}], unix: [{name: log, to: [/dev/log, '@x']}],
         limits: {connections: 5, connectionRate: 10/m, bytesOut: 1500MB, bytesIn: 10GiB}",
    );
    let expect = "\
apiVersion: enforcer/v1
kind: Envelope
metadata:
  name: a
  owner: b
  operator: c
  purpose: d
  model: e
spec:
  mode: enforce
  ttl: 1h
  requires: [egress, names]
  loopback: allow
  egress:
    - name: a
      to: [10.0.0.0/8, '::1/128', api.example.com, '*.example.com', agent:b]
      ports: [443, 8000-8010]
      protocol: tcp
    - name: ping
      to: [2001:db8::/32]
      protocol: icmp
  deny:
    - name: d
      to: [10.0.0.1/32]
      ports: any
      protocol: any
      mode: audit
  listen:
    - name: web
      from: [10.0.0.0/8]
      ports: [80, 443]
      protocol: any
  unix:
    - name: log
      to: ['/dev/log', '@x']
  limits:
    connections: 5
    connectionRate: 10/m
    bytesOut: 1500MB
    bytesIn: 10GiB
";
    assert_eq!(write(&envelope), expect);
    assert_eq!(
        (ttl(5400), ttl(86_400 * 3 + 1), size(1), size(1 << 41)),
        ("1h30m".into(), "3d1s".into(), "1B".into(), "2TiB".into())
    );
}
