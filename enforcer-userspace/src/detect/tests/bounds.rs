//! Streams at random.

use proptest::prelude::*;

use super::{super::baseline::MAX_AGENTS, *};

#[derive(Clone, Copy, Debug)]
enum Step {
    Deed { session: u16, agent: u16, kind: u8, value: u16, after_ns: u32 },
    End { session: u16, agent: u16 },
    Tick { after_ns: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let deed = (0u16..40, 0u16..600, 0u8..6, any::<u16>(), any::<u32>()).prop_map(
        |(session, agent, kind, value, after_ns)| Step::Deed { session, agent, kind, value, after_ns },
    );
    prop_oneof![
        20 => deed,
        1 => (0u16..40, 0u16..600).prop_map(|(session, agent)| Step::End { session, agent }),
        1 => (0u64..100 * SECOND).prop_map(|after_ns| Step::Tick { after_ns }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever sessions do, what is kept has a bound; and each finding names no more events than it is of.
    #[test]
    fn what_is_kept_has_a_bound(steps in prop::collection::vec(step(), 0..3000)) {
        const REMEMBER: usize = 4;
        let mut detector = detector(&format!(
            "{AT_ONCE}, refusalBurst: {{refusals: 5, within: 10s}}, newExecutable: {{remember: {REMEMBER}}}, newDestination: {{remember: {REMEMBER}}}"
        ));
        let (mut now_ns, mut sequence) = (0u64, 0u64);
        let mut open = BTreeMap::new();
        for step in steps {
            let findings = match step {
                Step::Deed { session: number, agent, kind, value, after_ns } => {
                    now_ns += u64::from(after_ns);
                    sequence += 1;
                    let (agent, path) = (format!("agent-{agent}"), format!("/bin/{value}"));
                    let seen = Seen { sequence: Some(sequence), at: at(now_ns), by: Some((session(number.into()), &agent)) };
                    let deed = match kind {
                        0 => Deed::Refused,
                        1 => Deed::Reached(to(value)),
                        2 => Deed::Executed { path: &path, sha256: None },
                        3 => Deed::Escape("x"),
                        4 => Deed::Tamper("x"),
                        _ => Deed::Limit(["connections", "connectionRate", "bytesOut", "bytesIn"][usize::from(value % 4)]),
                    };
                    detector.see(&seen, &deed)
                }
                Step::End { session: number, agent } => {
                    let ended = session(number.into());
                    let findings = detector.end_session(ended, Some(&format!("agent-{agent}")));
                    prop_assert!(!detector.sessions.contains_key(&ended));
                    findings
                }
                Step::Tick { after_ns } => {
                    now_ns += after_ns;
                    detector.pass_time(now_ns)
                }
            };
            for finding in findings {
                prop_assert!(finding.evidence.len() <= MOST_EVIDENCE);
                prop_assert!(finding.evidence.len() as u64 <= finding.count);
                prop_assert!(finding.first <= finding.last);
                match finding.phase {
                    Phase::New => prop_assert_eq!(open.insert(finding.id, finding.count), None, "told of once"),
                    Phase::Over => {
                        let begun = open.remove(&finding.id);
                        prop_assert!(begun.is_some_and(|begun| begun <= finding.count), "it had begun");
                    }
                }
            }
        }
        let kept = |watched: &Watched| {
            watched.refusals.kept() + watched.escapes.kept() + watched.tampers.kept() + watched.limits.len()
        };
        prop_assert!(detector.sessions.len() <= 40);
        prop_assert!(detector.sessions.values().all(|watched| kept(watched) <= (5 + 1 + 1) + 3 * MOST_EVIDENCE + 4));
        prop_assert!(detector.agents() <= MAX_AGENTS);
        prop_assert!(detector.full.len() <= 2 * MAX_AGENTS);
        let (executables, endpoints) = detector.baselines.entries();
        prop_assert!(executables.max(endpoints) <= MAX_AGENTS * REMEMBER);
    }
}
