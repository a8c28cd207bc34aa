//! What is said of two envelopes, word for word.

use super::*;

/// Each as `rule -> refusing rule: what`.
fn written(all: &[Excess]) -> Vec<String> {
    let name = |rule: &Option<RuleRef>| rule.as_ref().map_or("-".to_owned(), |rule| rule.name.clone());
    let region = |region: &Region| {
        let services: Vec<_> = region.services().iter().map(ToString::to_string).collect();
        let prefixes: Vec<_> = region.prefixes().map(|prefix| prefix.to_string()).collect();
        format!("{} {}", services.join("; "), prefixes.join(" "))
    };
    let each = all.iter().map(|excess| {
        let what = match &excess.what {
            What::Destinations(at) => region(at),
            What::Listen { region: at, in_part: false } => format!("listen {}", region(at)),
            What::Listen { region: at, in_part: true } => format!("listen {} in part", region(at)),
            What::Named { names, services } => format!("{} {}", services[0], names.join(" ")),
            other => format!("{other:?}"),
        };
        format!("{} {} {what}", name(&excess.inner), name(&excess.outer))
    });
    each.collect()
}

fn check(inner: &str, outer: &str, expect: &[&str]) {
    assert_eq!(written(&excess(&read(inner), &read(outer)).unwrap()), expect, "{inner} in {outer}");
}

#[test]
fn a_hole_in_everything_is_found() {
    let all = "egress: [{name: all, to: [0.0.0.0/0], ports: any, protocol: tcp}]";
    let but = "egress: [{name: all, to: [0.0.0.0/0], ports: any, protocol: tcp}],
               deny: [{name: ten, to: [10.0.0.0/8], ports: any, protocol: any}]";
    check(but, all, &[]);
    check(all, but, &["all ten tcp any 10.0.0.0/8"]);
    check(
        but,
        "egress: []",
        &[
            "all - tcp any 0.0.0.0/5 8.0.0.0/7 11.0.0.0/8 12.0.0.0/6 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2 128.0.0.0/1",
        ],
    );
    check(
        "egress: [{name: all, to: ['::/0'], ports: 443, protocol: tcp}]",
        "egress: [{name: all, to: ['::/0'], ports: any, protocol: tcp}],
         deny: [{name: half, to: ['8000::/1'], ports: 1-500, protocol: any}]",
        &["all half tcp 443 8000::/1"],
    );
    check(
        "egress: [{name: all, to: ['::/0'], ports: any, protocol: any}],
         deny: [{name: half, to: ['8000::/1'], ports: 1-500, protocol: any}]",
        "egress: [{name: all, to: ['::/0'], ports: any, protocol: udp}]",
        &["all - tcp any; icmp ::/1", "all - tcp 501-65535; icmp 8000::/1"],
    );
}

#[test]
fn halves_make_a_whole() {
    check(
        "egress: [{name: net, to: [10.0.0.0/8], ports: 1-100, protocol: any}]",
        "egress: [{name: low, to: [10.0.0.0/9], ports: any, protocol: any},
                  {name: high, to: [10.128.0.0/9], ports: 1-50, protocol: any},
                  {name: rest, to: [10.128.0.0/9], ports: [51-99, 100], protocol: any}]",
        &[],
    );
}

#[test]
fn audit_mode_allows_what_it_does_not_refuse() {
    let audit = "mode: audit, deny: [{name: soft, to: [10.0.0.0/8], ports: any, protocol: any},
                 {name: hard, to: [128.0.0.0/1, '::/0'], ports: any, protocol: any, mode: enforce}]";
    check("egress: [{name: a, to: [10.0.0.1, x.example.com], ports: 443, protocol: tcp}]", audit, &[]);
    check(
        "egress: [{name: a, to: [200.0.0.1], ports: 443, protocol: tcp}]",
        audit,
        &["a hard tcp 443 200.0.0.1/32"],
    );
    // Port 0 is let through in audit mode, and is no port to a rule.
    let enforce = "egress: [{name: a, to: [0.0.0.0/1], ports: any, protocol: any}]";
    let excess = excess(&read(audit), &read(enforce)).unwrap();
    assert_eq!(
        written(&excess),
        [
            "soft - tcp+udp 0 10.0.0.0/8",
            "- - tcp+udp 0 0.0.0.0/5 8.0.0.0/7 11.0.0.0/8 12.0.0.0/6 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2",
            "- - listen tcp+udp any 0.0.0.0/1",
            "- - Audit",
        ]
    );
}

#[test]
fn names_are_covered_by_wider_names_only() {
    let outer = "egress: [{name: web, to: ['*.example.com', 0.0.0.0/0], ports: 1-1000, protocol: tcp},
                          {name: peer, to: ['agent:b'], ports: 80, protocol: tcp}]";
    check(
        "egress: [{name: a, to: [x.example.com, '*.y.example.com', 'agent:b'], ports: 80, protocol: tcp}]",
        outer,
        &[],
    );
    check(
        "egress: [{name: a, to: [x.example.com, example.com, 'agent:b', 'agent:c'], ports: 80-1001, protocol: tcp}]",
        outer,
        &["a - tcp 80-1001 example.com agent:c", "a - tcp 81-1001 agent:b", "a - tcp 1001 x.example.com"],
    );
}

#[test]
fn every_other_dimension_is_compared() {
    let outer =
        "requires: [names, listen], listen: [{name: l, from: [10.0.0.0/8], ports: 80, protocol: any}],
         unix: [{name: u, to: [/dev/log]}], limits: {connectionRate: 10/s, bytesOut: 1MB}";
    let same = "requires: [names], listen: [{name: l, from: [10.1.0.0/16], ports: 80, protocol: udp}],
         unix: [], limits: {connectionRate: 10/m, bytesOut: 1MB, depth: 2}";
    check(same, outer, &[]);
    check(
        "listen: [{name: l, from: [10.0.0.0/7], ports: 80, protocol: tcp}], unix: [{name: v, to: [/x]}],
         limits: {connectionRate: 20/m, bytesOut: 2MB}",
        outer,
        &[
            "l - listen tcp 80 11.0.0.0/8",
            "v - Unix([\"/x\"])",
            "- - Limit { which: ConnectionRate, inner: Some(Rate(Rate { count: 20, seconds: 60 })), outer: Rate(Rate { count: 10, seconds: 1 }) }",
            "- - Limit { which: BytesOut, inner: Some(Bytes(2000000)), outer: Bytes(1000000) }",
            "- - Requires([Names])",
        ],
    );
    check("requires: [names], limits: {connectionRate: 1/s, bytesOut: 1B}", outer, &["- - AnyUnix"]);
    check("onFinding: quarantine", "egress: []", &[]);
    check("egress: []", "onFinding: quarantine", &["- - OnFinding { inner: Record, outer: Quarantine }"]);
    let longer = Envelope { ttl: Duration::from_secs(3601), ..read("egress: []") };
    assert_eq!(
        written(&excess(&longer, &read("egress: []")).unwrap()),
        ["- - Ttl { inner: 3601s, outer: 3600s }"]
    );
}

#[test]
fn deny_rules_are_for_who_comes_in_as_well() {
    let listen = "listen: [{name: web, from: [10.0.0.0/8], ports: 80-81, protocol: tcp}]";
    let denies =
        |ports| format!("{listen}, deny: [{{name: d, to: [10.1.0.0/16], ports: {ports}, protocol: any}}]");
    check(listen, &denies("any"), &["web d listen tcp 80-81 10.1.0.0/16"]);
    check(listen, &denies("1-1023"), &["web d listen tcp 80-81 10.1.0.0/16 in part"]);
    check(&denies("any"), &denies("1-1023"), &[]);
    check(
        &denies("any"),
        "listen: [{name: web, from: [10.0.0.0/8], ports: 80, protocol: tcp}]",
        &[
            "web - listen tcp 81 10.0.0.0/16 10.2.0.0/15 10.4.0.0/14 10.8.0.0/13 10.16.0.0/12 10.32.0.0/11 10.64.0.0/10 10.128.0.0/9",
        ],
    );
    check(
        "mode: audit",
        listen,
        &[
            "- - icmp+tcp+udp any 0.0.0.0/0 ::/0",
            "- - listen tcp 1-79,82-65535; udp any 10.0.0.0/8",
            "- - listen tcp+udp any 0.0.0.0/5 8.0.0.0/7 11.0.0.0/8 12.0.0.0/6 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2 128.0.0.0/1 ::/0",
            "- - Audit",
        ],
    );
    check(listen, "mode: audit", &[]);
}

#[test]
fn loopback_is_written_out_where_it_is_not_whole() {
    let spec = |a, b| {
        let text = write(&intersect(&read(a), &read(b)).unwrap());
        text.split_once("ttl: 1h\n").unwrap().1.to_owned()
    };
    let listen = "loopback: allow, listen: [{name: web, from: [127.0.0.0/8], ports: any, protocol: tcp}]";
    assert_eq!(spec("loopback: allow", "loopback: allow"), "  loopback: allow\n  egress: []\n");
    assert_eq!(
        spec("loopback: allow", listen),
        "  egress:
    - name: loopback-2
      to: [127.0.0.0/8, '::1/128']
      ports: any
      protocol: any
  listen:
    - name: web
      from: [127.0.0.0/8]
      ports: any
      protocol: tcp
    - name: loopback-3
      from: [127.0.0.0/8]
      ports: any
      protocol: udp
    - name: loopback-4
      from: ['::1/128']
      ports: any
      protocol: any
"
    );
}

#[test]
fn an_intersection_keeps_the_names_of_the_second() {
    let a = read(
        "loopback: allow, egress: [{name: net, to: [10.0.0.0/8, '*.example.com'], ports: 1-1000, protocol: tcp}],
         deny: [{name: git, to: [10.9.0.0/16], ports: any, protocol: any}]",
    );
    let b = read(
        "loopback: allow, egress: [{name: git, to: [10.0.0.1, 192.0.2.1, a.example.com], ports: [22, 8080], protocol: tcp},
                  {name: web, to: [10.0.0.0/9, 11.0.0.0/8], ports: any, protocol: any}]",
    );
    let text = write(&intersect(&a, &b).unwrap());
    let (_, spec) = text.split_once("spec:\n").unwrap();
    let expect = "  mode: enforce
  ttl: 1h
  loopback: allow
  egress:
    - name: git
      to: [10.0.0.1/32, a.example.com]
      ports: 22
      protocol: tcp
    - name: web
      to: [10.0.0.0/9]
      ports: 1-1000
      protocol: tcp
  deny:
    - name: git-2
      to: [10.9.0.0/16]
      ports: any
      protocol: any
";
    assert_eq!(spec, expect);
}
